"""Converted models in our own layout: config.json and an Orbax checkpoint.

    DIR/config.json   {"format": 1, "model": "transformer", "config": {...}}
    DIR/params        Orbax checkpoint of the nested parameters

They are written and read in groups of parameters, so a model may be larger than
the memory that is free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import logging
import math
import os
import pathlib
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from ttt_jax.checkpoints import train_state
from ttt_jax.convert import lazy_params
from ttt_jax.convert import model_format
from ttt_jax.convert import safetensors_reader
from ttt_jax.runtime import disk
from ttt_jax.runtime import files
from ttt_jax.runtime import schema

_FORMAT = 1
_PARAMS = 'params'
# Arrays are stored in chunks, so that a device can read its part.
_CHUNK_BYTES = 64 * 2**20
# Small parameters are written together, because every write has a fixed cost.
_GROUP_BYTES = 256 * 2**20


class _Header(msgspec.Struct):
  """Contents of config.json."""

  format: int
  model: str
  config: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
  """Parameters that are read together: a read has a fixed cost, too.

  Attributes:
    folder: Folder of the Orbax checkpoint.
    like: '/'-joined path -> shape and type.
  """

  folder: pathlib.Path
  like: dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class NativeParameter:
  """A parameter that is not read yet; `np.asarray` reads it.

  Attributes:
    path: '/'-joined path of the parameter.
    shape: Shape of the parameter.
    dtype: Type of the parameter.
    group: Parameters that are read with it.
  """

  path: str
  shape: tuple[int, ...]
  dtype: np.dtype
  group: _Group

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    value = _read_group(self.group)[self.path]
    name = f'{self.path} in {self.group.folder}'
    safetensors_reader.check_finite(safetensors_reader.is_finite(value), name)
    return value if dtype is None else value.astype(dtype, copy=False)


@dataclasses.dataclass(frozen=True)
class NativeCheckpoint:
  """A converted model whose parameters are not read yet.

  Attributes:
    model: Name of its `ModelFormat`, such as 'transformer'.
    config: Fields of the config.
    folder: Folder of the Orbax checkpoint.
    parameters: '/'-joined path -> parameter.
  """

  model: str
  config: dict[str, Any]
  folder: pathlib.Path
  parameters: dict[str, NativeParameter]

  def params(
    self, dtype: Any = None, sharding: lazy_params.Placement = None
  ) -> dict[str, Any]:
    """Returns the nested parameters.

    Args:
      dtype: Type of the parameters; None keeps their own types.
      sharding: Sharding of each parameter; None returns numpy arrays,
        `lazy_params.ABSTRACT` returns them unread in their own types.
    """
    if isinstance(sharding, lazy_params.Abstract):
      return train_state.unflatten(self.parameters)
    if sharding is None:
      return train_state.unflatten(
        {
          path: np.asarray(parameter, dtype or parameter.dtype)
          for path, parameter in self.parameters.items()
        }
      )
    like = {
      path: jax.ShapeDtypeStruct(parameter.shape, dtype or parameter.dtype)
      for path, parameter in self.parameters.items()
    }
    flat = _load(self.folder, like, sharding)
    is_finite = jax.jit(lambda x: {k: jnp.isfinite(x[k]).all() for k in x})
    for path, finite in is_finite(flat).items():
      safetensors_reader.check_finite(bool(finite), f'{path} in {self.folder}')
    return train_state.unflatten(flat)


def is_checkpoint(folder: str | os.PathLike[str]) -> bool:
  """Returns whether `write` created this folder."""
  return pathlib.Path(folder, _PARAMS, 'orbax.checkpoint').is_file()


def read(folder: str | os.PathLike[str]) -> NativeCheckpoint:
  """Opens a folder that `write` created; its parameters are not read.

  Raises:
    FileNotFoundError: `write` did not create the folder.
    ValueError: another format, or a damaged checkpoint.
  """
  folder = pathlib.Path(folder).resolve()
  if not is_checkpoint(folder):
    raise FileNotFoundError(
      f'{folder} contains no converted model; convert one with ttt-jax convert'
    )
  path = folder / 'config.json'
  found = schema.convert(model_format.read_object(path), _Header, str(path))
  if found.format != _FORMAT:
    raise ValueError(
      f'{path} is not of format {_FORMAT}; convert the model again'
    )
  params = folder / _PARAMS
  try:
    metadata: Any = ocp.metadata(epath.Path(params)).metadata
    like = {
      path: jax.ShapeDtypeStruct(tuple(leaf.shape), np.dtype(leaf.dtype))
      for path, leaf in train_state.flatten(metadata).items()
    }
  except Exception as e:  # Orbax raises nothing narrower.
    raise ValueError(
      f'{params} cannot be read ({files.first_line(e)[:200]}); convert the'
      ' model again'
    ) from e
  sizes = {path: x.size * x.dtype.itemsize for path, x in like.items()}
  parameters = {}
  for paths in lazy_params.group_by_size(sizes, _GROUP_BYTES):
    group = _Group(params, {path: like[path] for path in paths})
    for path, x in group.like.items():
      parameters[path] = NativeParameter(path, x.shape, x.dtype, group)
  return NativeCheckpoint(found.model, found.config, params, parameters)


def write(
  folder: str | os.PathLike[str],
  model: str,
  config: Mapping[str, Any],
  params: Mapping[str, Any],
  *,
  dtype: Any = None,
  on_parameter: Callable[[str], None] | None = None,
) -> None:
  """Writes a converted model; the folder appears once it is complete.

  Args:
    folder: Folder to create; it must not contain anything.
    model: Name of the `ModelFormat`, such as 'transformer'.
    config: Fields of the config, as JSON has them.
    params: Nested parameters: arrays, or objects with a shape, a dtype and a
      value for `np.asarray`.
    dtype: Type of the stored parameters; None keeps that of each.
    on_parameter: Called with the path of each parameter after it is written.

  Raises:
    FileExistsError: the folder exists and is not empty.
  """
  flat = train_state.flatten(params)
  # As float32 or less.
  sizes = {path: math.prod(leaf.shape) * 4 for path, leaf in flat.items()}
  with files.atomic_folder(pathlib.Path(folder).resolve()) as temporary:
    target = epath.Path(temporary / _PARAMS)
    with _context():
      for group in lazy_params.group_by_size(sizes, _GROUP_BYTES):
        arrays: Any = train_state.unflatten(
          {path: _to_device(flat[path], dtype) for path in group}
        )
        ocp.partial.save(target, arrays)
        if on_parameter is not None:
          for path in group:
            on_parameter(path)
      ocp.partial.finalize(target)
    files.write_json(
      dict(format=_FORMAT, model=model, config=dict(config)),
      temporary / 'config.json',
      indent=2,
    )


def _load(
  folder: pathlib.Path,
  like: Mapping[str, jax.ShapeDtypeStruct],
  sharding: Callable[[jax.ShapeDtypeStruct], jax.sharding.Sharding],
) -> dict[str, Any]:
  """Returns path -> array, in one read."""
  nested: Any = train_state.unflatten(
    {
      path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x))
      for path, x in like.items()
    }
  )
  with _context():
    found: Any = ocp.load(epath.Path(folder), nested)
  return train_state.flatten(dict(found))


@functools.lru_cache(maxsize=2)
def _read_group(group: _Group) -> dict[str, np.ndarray]:
  flat = _load(group.folder, group.like, lambda _: _first_device())
  return {path: np.asarray(value) for path, value in flat.items()}


def _first_device() -> jax.sharding.Sharding:
  return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _to_device(parameter: Any, dtype: Any) -> Any:
  # Orbax writes JAX arrays without a copy.
  dtype = parameter.dtype if dtype is None else dtype
  if isinstance(parameter, lazy_params.Parameter):
    return lazy_params.materialize(parameter, dtype, lambda _: _first_device())
  return jax.device_put(np.asarray(parameter, dtype), _first_device())


def _context() -> ocp.Context:
  logging.getLogger('absl').addFilter(disk.drop_orbax_logs)
  context = ocp.Context()
  context.array.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
  # Compression makes weights slower to read, but not smaller.
  context.array.saving.use_compression = False
  context.pytree.loading.partial_load = True
  return context
