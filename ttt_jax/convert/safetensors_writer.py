"""Safetensors files written one tensor at a time.

The library's own writer wants all tensors of a file in memory at once. The
format is a header of JSON and the tensors behind it, so that each can go to
its place as it comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
import json
import os
import pathlib
import re
from typing import Any

from flax import traverse_util
import numpy as np

from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import safetensors_reader

# Bytes of a file, as diffusers splits them.
SHARD_BYTES = 10 * 10**9

_NAMES = {dtype: name for name, dtype in safetensors_reader.DTYPES.items()}


def write_folder(
  folder: str | os.PathLike[str],
  name: str,
  rules: Sequence[rules_lib.Rule],
  params: Mapping[str, Any],
  *,
  dtype: Any = None,
  shard_bytes: float = SHARD_BYTES,
  config: Mapping[str, Any] | None = None,
) -> None:
  """Writes parameters as `files.open_folder` reads them.

  A reader never sees half a file. Memory holds one parameter at a time.

  Args:
    folder: made if it is not there.
    name: of the weights, such as 'diffusion_pytorch_model'.
    rules: the table.
    params: nested; the leaves are arrays, or have a shape, a dtype and a
      value for `np.asarray`.
    dtype: of the files; None keeps that of each parameter.
    shard_bytes: more than that go into several files with an index.
    config: content of `config.json`, which is written last: a folder that has
      one is whole. None writes none.

  Raises:
    FileExistsError: weights of that name are there already.
    ValueError: parameters that no rule writes, or a type that files of
      weights do not have.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  check_free(folder, name)
  flat = traverse_util.flatten_dict(params, sep='/')
  kinds = {
    path: np.dtype(leaf.dtype if dtype is None else dtype)
    for path, leaf in flat.items()
  }
  for path, kind in kinds.items():
    if kind not in _NAMES:
      raise ValueError(
        f'{path} has type {kind}; files of weights hold one of'
        f' {", ".join(map(str, _NAMES))}'
      )
  # Of the right shapes, without memory.
  empty = {
    path: np.broadcast_to(np.zeros((), kinds[path]), leaf.shape)
    for path, leaf in flat.items()
  }
  shards = _split(rules_lib.to_source(rules, _nested(empty)), shard_bytes)
  names = [f'{name}.safetensors']
  if len(shards) > 1:
    names = [
      f'{name}-{i + 1:05}-of-{len(shards):05}.safetensors'
      for i in range(len(shards))
    ]
  with contextlib.ExitStack() as stack:
    places = {}
    for file, shard in zip(names, shards):
      writer = stack.enter_context(_File(folder / file, shard))
      places |= dict.fromkeys(shard, writer)
    for path, leaf in flat.items():
      value = np.asarray(leaf)
      for key, part in rules_lib.to_source(
        rules, _nested({path: value})
      ).items():
        places[key].write(key, part)
  if len(shards) > 1:
    total = sum(part.nbytes for shard in shards for part in shard.values())
    write_json(
      folder / f'{name}.safetensors.index.json',
      dict(
        metadata=dict(total_size=total),
        weight_map={key: places[key].name for key in sorted(places)},
      ),
    )
  if config is not None:
    write_json(folder / 'config.json', config)


def check_free(folder: pathlib.Path, name: str) -> None:
  """Raises FileExistsError if the folder holds weights of that name."""
  for path in sorted(folder.glob(f'{name}*.safetensors*')):
    raise FileExistsError(
      f'{path} exists and is not replaced; name another folder'
    )


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes JSON; a reader never sees half of it."""
  half = path.with_name(path.name + '.tmp')
  half.write_text(json.dumps(content, indent=2) + '\n')
  half.replace(path)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
  return traverse_util.unflatten_dict(dict(flat), sep='/')


def _split(
  tensors: Mapping[str, np.ndarray], limit: float
) -> list[dict[str, np.ndarray]]:
  """Tensors by file: layer after layer, each file filled up to `limit`."""
  natural = lambda key: [
    (int(piece), '') if piece.isdecimal() else (-1, piece)
    for piece in re.split(r'(\d+)', key)
  ]
  shards, size = [{}], 0
  for key in sorted(tensors, key=natural):
    if shards[-1] and size + tensors[key].nbytes > limit:
      shards.append({})
      size = 0
    shards[-1][key] = tensors[key]
    size += tensors[key].nbytes
  return shards


class _File:
  """A safetensors file to be; it gets its name when all of it is there."""

  def __init__(self, path: pathlib.Path, tensors: Mapping[str, np.ndarray]):
    self.name = path.name
    self._path, self._half = path, path.with_name(path.name + '.tmp')
    self._tensors, self._offsets = tensors, {}
    # Wide types first, so that every tensor is aligned; PyTorch's readers
    # want to know who it is for.
    order = sorted(tensors, key=lambda key: (-tensors[key].itemsize, key))
    header, end = {'__metadata__': {'format': 'pt'}}, 0
    for key in order:
      part = tensors[key]
      header[key] = dict(
        dtype=_NAMES[part.dtype],
        shape=list(part.shape),
        data_offsets=[end, end + part.nbytes],
      )
      self._offsets[key] = end
      end += part.nbytes
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    self._header = len(text).to_bytes(8, 'little') + text
    self._left = set(tensors)

  def __enter__(self) -> _File:
    self._file = self._half.open('wb')
    self._file.write(self._header)
    return self

  def write(self, key: str, value: np.ndarray) -> None:
    """Writes one tensor, in the type that the header names."""
    self._file.seek(len(self._header) + self._offsets[key])
    value = np.ascontiguousarray(value, self._tensors[key].dtype)
    self._file.write(value.view(np.uint8))
    self._left.remove(key)

  def __exit__(self, kind, error, trace) -> None:
    self._file.close()
    if kind is None and not self._left:
      self._half.replace(self._path)
    else:
      self._half.unlink()
