"""Our own folders: config.json and the parameters as an Orbax tree.

    DIR/config.json   {"format": 1, "model": "transformer", "config": {...}}
    DIR/params        an Orbax checkpoint of the nested parameters

They are written and read one parameter at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import logging
import math
import os
import pathlib
import shutil
from typing import Any

from flax import traverse_util
import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from ttt_jax.convert import lazy_params
from ttt_jax.convert import rules
from ttt_jax.convert import safetensors_writer
from ttt_jax.runtime import disk
from ttt_jax.runtime import json_file

_FORMAT = 1
_PARAMS = 'params'
# Pieces in which an array is stored, so that a device can read its part.
_CHUNK_BYTES = 64 * 2**20
# Small parameters are written together, up to so much.
_GROUP_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A parameter of a tree that is not read yet; `np.asarray` reads it.

  Attributes:
    folder: of the Orbax checkpoint.
    path: '/'-joined.
    shape: of the parameter.
    dtype: of the parameter.
  """

  folder: pathlib.Path
  path: str
  shape: tuple[int, ...]
  dtype: np.dtype

  def read(self, dtype: Any, where: Any) -> jax.Array:
    """The parameter in `dtype`, with the sharding `where`."""
    like = jax.ShapeDtypeStruct(self.shape, dtype, sharding=where)
    nested = traverse_util.unflatten_dict({self.path: like}, sep='/')
    with _context():
      tree = ocp.load(self.folder, nested)
    return traverse_util.flatten_dict(tree, sep='/')[self.path]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.asarray(self.read(dtype or self.dtype, _device()))


@dataclasses.dataclass(frozen=True)
class Tree:
  """A folder of ours.

  Attributes:
    model: what it is, such as 'transformer'.
    config: fields of its config.
    leaves: '/'-joined path -> parameter.
  """

  model: str
  config: dict[str, Any]
  leaves: dict[str, Leaf]

  def params(
    self, dtype: Any = None, sharding: lazy_params.Sharding | None = None
  ) -> dict[str, Any]:
    """The nested parameters.

    Args:
      dtype: of them; None keeps their own.
      sharding: where each goes; None gives numpy arrays, `placing.UNREAD` the
        leaves as they are.
    """

    def read(leaf):
      kind = leaf.dtype if dtype is None else np.dtype(dtype)
      if sharding is None:
        return np.asarray(leaf, kind)
      like = jax.ShapeDtypeStruct(leaf.shape, kind)
      return leaf.read(kind, sharding(like))

    flat = self.leaves
    if sharding is not lazy_params.UNREAD:
      flat = {path: read(leaf) for path, leaf in flat.items()}
    return traverse_util.unflatten_dict(flat, sep='/')


def is_tree(folder: str | os.PathLike[str]) -> bool:
  """Whether `write` made this folder."""
  return pathlib.Path(folder, _PARAMS, 'orbax.checkpoint').is_file()


def read(folder: str | os.PathLike[str]) -> Tree:
  """Opens a folder that `write` made; its parameters stay there.

  Raises:
    FileNotFoundError: it is none.
    ValueError: another format, or it is damaged.
  """
  folder = pathlib.Path(folder).resolve()
  if not is_tree(folder):
    raise FileNotFoundError(
      f'{folder} holds no converted model; make one with python -m'
      ' ttt_jax.convert'
    )
  found = json_file.read(folder / 'config.json')
  if not isinstance(found, dict) or found.get('format') != _FORMAT:
    raise ValueError(
      f'{folder / "config.json"} is not of format {_FORMAT}; convert the'
      ' model again'
    )
  place = folder / _PARAMS
  try:
    metadata = ocp.metadata(place).metadata
  except Exception as e:  # pylint: disable=broad-except
    reason = (str(e).strip() or type(e).__name__).splitlines()[0]
    raise ValueError(
      f'{place} cannot be read ({reason[:200]}); convert the model again'
    ) from e
  leaves = {
    path: Leaf(place, path, tuple(leaf.shape), np.dtype(leaf.dtype))
    for path, leaf in traverse_util.flatten_dict(metadata, sep='/').items()
  }
  return Tree(found['model'], found['config'], leaves)


def write(
  folder: str | os.PathLike[str],
  model: str,
  config: Mapping[str, Any],
  params: Mapping[str, Any],
  *,
  dtype: Any = None,
  on_leaf: Callable[[str], None] | None = None,
) -> None:
  """Writes a folder of ours; the folder appears when all of it is there.

  Args:
    folder: must not exist.
    model: what it is, such as 'transformer'.
    config: its fields, JSON.
    params: nested; the leaves are arrays, or have a shape, a dtype and a
      value for `np.asarray`.
    dtype: in which to store them; None keeps that of each.
    on_leaf: called with the path of each when it has been written.

  Raises:
    FileExistsError: the folder exists.
  """
  folder = pathlib.Path(folder).resolve()
  check_free(folder)
  half = folder.with_name(folder.name + '.tmp')
  shutil.rmtree(half, ignore_errors=True)
  half.mkdir(parents=True)
  flat = traverse_util.flatten_dict(params, sep='/')
  try:
    with _context():
      for group in _groups(flat):
        ocp.partial.save(
          half / _PARAMS,
          traverse_util.unflatten_dict(
            {
              path: _on_device(
                flat[path], flat[path].dtype if dtype is None else dtype
              )
              for path in group
            },
            sep='/',
          ),
        )
        if on_leaf is not None:
          for path in group:
            on_leaf(path)
      ocp.partial.finalize(half / _PARAMS)
    safetensors_writer.write_json(
      half / 'config.json',
      dict(format=_FORMAT, model=model, config=dict(config)),
    )
    half.rename(folder)
  finally:
    shutil.rmtree(half, ignore_errors=True)


def check_free(folder: pathlib.Path) -> None:
  """Raises FileExistsError if there is something in the way."""
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise FileExistsError(
      f'{folder} exists and is not replaced; name another folder'
    )


def _groups(flat: Mapping[str, Any]) -> list[list[str]]:
  """Paths that are written together: every single write has its costs."""
  groups, size = [[]], 0
  for path, leaf in flat.items():
    # As float32 or less.
    size += math.prod(leaf.shape) * 4
    if groups[-1] and size > _GROUP_BYTES:
      groups.append([])
      size = math.prod(leaf.shape) * 4
    groups[-1].append(path)
  return groups


def _device() -> jax.sharding.Sharding:
  return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _on_device(leaf: Any, dtype: Any) -> jax.Array:
  # Arrays of JAX are written without a copy.
  if isinstance(leaf, rules.Parameter):
    return lazy_params.place(leaf, dtype, lambda _: _device())
  return jax.device_put(np.asarray(leaf, dtype), _device())


def _context() -> ocp.Context:
  logging.getLogger('absl').addFilter(disk.not_orbax)
  context = ocp.Context()
  context.array.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
  # Weights do not get smaller, only slower to read.
  context.array.saving.use_compression = False
  context.pytree.loading.partial_load = True
  return context
