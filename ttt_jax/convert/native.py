"""Converted models in our own layout: config.json and an Orbax checkpoint.

    DIR/config.json   {"format": 1, "model": "transformer", "config": {...}}
    DIR/params        Orbax checkpoint of the nested parameters

They are written and read one parameter at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import logging
import math
import os
import pathlib
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from ttt_jax.checkpoints import train_state
from ttt_jax.convert import lazy_params
from ttt_jax.convert import model_format
from ttt_jax.runtime import disk
from ttt_jax.runtime import files

_FORMAT = 1
_PARAMS = 'params'
# Arrays are stored in chunks, so that a device can read its part.
_CHUNK_BYTES = 64 * 2**20
# Small parameters are written together, because every write has a fixed cost.
_GROUP_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class NativeParameter:
  """A parameter that is not read yet; `np.asarray` reads it.

  Attributes:
    folder: Folder of the Orbax checkpoint.
    path: '/'-joined path of the parameter.
    shape: Shape of the parameter.
    dtype: Type of the parameter.
  """

  folder: pathlib.Path
  path: str
  shape: tuple[int, ...]
  dtype: np.dtype

  def read(self, dtype: Any, sharding: Any) -> jax.Array:
    """Returns the parameter in `dtype`, with a sharding."""
    like = jax.ShapeDtypeStruct(self.shape, dtype, sharding=sharding)
    nested: Any = train_state.unflatten({self.path: like})
    with _context():
      found: Any = ocp.load(epath.Path(self.folder), nested)
    return train_state.flatten(dict(found))[self.path]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.asarray(self.read(dtype or self.dtype, _first_device()))


@dataclasses.dataclass(frozen=True)
class NativeCheckpoint:
  """A converted model whose parameters are not read yet.

  Attributes:
    model: Name of its `ModelFormat`, such as 'transformer'.
    config: Fields of the config.
    parameters: '/'-joined path -> parameter.
  """

  model: str
  config: dict[str, Any]
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
    flat: dict[str, Any] = {}
    for path, parameter in self.parameters.items():
      kind = parameter.dtype if dtype is None else np.dtype(dtype)
      if sharding is None:
        flat[path] = np.asarray(parameter, kind)
      else:
        like = jax.ShapeDtypeStruct(parameter.shape, kind)
        flat[path] = parameter.read(kind, sharding(like))
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
      f'{folder} contains no converted model; convert one with python -m'
      ' ttt_jax.convert'
    )
  found = model_format.read_object(folder / 'config.json')
  if found.get('format') != _FORMAT:
    raise ValueError(
      f'{folder / "config.json"} is not of format {_FORMAT}; convert the'
      ' model again'
    )
  params = folder / _PARAMS
  try:
    metadata: Any = ocp.metadata(epath.Path(params)).metadata
  except Exception as e:  # Orbax raises nothing narrower.
    raise ValueError(
      f'{params} cannot be read ({files.first_line(e)[:200]}); convert the'
      ' model again'
    ) from e
  parameters = {
    path: NativeParameter(params, path, tuple(leaf.shape), np.dtype(leaf.dtype))
    for path, leaf in train_state.flatten(metadata).items()
  }
  return NativeCheckpoint(found['model'], found['config'], parameters)


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
