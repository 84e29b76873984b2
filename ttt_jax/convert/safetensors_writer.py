"""Safetensors files written one tensor at a time.

The library's own writer needs all tensors of a file in memory. The format is
a JSON header followed by the tensors, so each can be written at its offset as
soon as it is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
import json
import os
import pathlib
import re
from typing import Any, BinaryIO

import numpy as np

from ttt_jax.checkpoints import train_state
from ttt_jax.convert import lazy_params
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import safetensors_reader
from ttt_jax.runtime import files

# Largest file, as diffusers splits models.
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
  """Writes parameters as `safetensors_reader.open_folder` reads them.

  Every file appears only once it is complete. Memory holds one parameter at a
  time.

  Args:
    folder: Folder to write to, created if necessary.
    name: Name of the weights, such as 'diffusion_pytorch_model'.
    rules: Table of rules.
    params: Nested parameters: arrays, or objects with a shape, a dtype and a
      value for `np.asarray`.
    dtype: Type of the tensors; None keeps that of each parameter.
    shard_bytes: Largest file; larger models become several files with an
      index.
    config: Content of `config.json`, which is written last: a folder that has
      one is complete. None writes none.

  Raises:
    FileExistsError: the folder contains weights of that name.
    ValueError: a parameter that no rule writes, or a type that weights cannot
      have.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  check_free(folder, name)
  flat = train_state.flatten(params)
  # Arrays of the right shapes and types that take no memory.
  empty = {}
  for path, leaf in flat.items():
    kind = np.dtype(leaf.dtype if dtype is None else dtype)
    if kind not in _NAMES:
      raise ValueError(
        f'{path} has type {kind}; weights must have one of'
        f' {", ".join(map(str, _NAMES))}'
      )
    empty[path] = np.broadcast_to(np.zeros((), kind), leaf.shape)
  tensors = rules_lib.export_params(rules, train_state.unflatten(empty))
  # Layer after layer.
  sizes = {key: tensors[key].nbytes for key in sorted(tensors, key=_natural)}
  shards = lazy_params.group_by_size(sizes, shard_bytes)
  names = [f'{name}.safetensors']
  if len(shards) > 1:
    names = [
      f'{name}-{i + 1:05}-of-{len(shards):05}.safetensors'
      for i in range(len(shards))
    ]
  with contextlib.ExitStack() as stack:
    writers = {}
    for file, shard in zip(names, shards):
      path = stack.enter_context(files.atomic_write(folder / file))
      stream = stack.enter_context(open(path, 'wb'))
      writer = _Writer(stream, {key: tensors[key] for key in shard})
      writers |= dict.fromkeys(shard, writer)
    for path, leaf in flat.items():
      nested = train_state.unflatten({path: np.asarray(leaf)})
      for key, tensor in rules_lib.export_params(rules, nested).items():
        writers[key].write(key, tensor)
  if len(shards) > 1:
    weight_map = {
      key: file for file, shard in zip(names, shards) for key in shard
    }
    index = dict(
      metadata=dict(total_size=sum(sizes.values())),
      weight_map=dict(sorted(weight_map.items())),
    )
    files.write_json(index, folder / f'{name}.safetensors.index.json', indent=2)
  if config is not None:
    files.write_json(config, folder / 'config.json', indent=2)


def check_free(folder: pathlib.Path, name: str) -> None:
  """Raises FileExistsError if the folder contains weights of that name."""
  for path in sorted(folder.glob(f'{name}*.safetensors*')):
    raise FileExistsError(
      f'{path} exists and is not replaced; choose another folder'
    )


def _natural(key: str) -> list[tuple[int, str]]:
  """Returns a sort key that orders numbers in names by value."""
  return [
    (int(piece), '') if piece.isdecimal() else (-1, piece)
    for piece in re.split(r'(\d+)', key)
  ]


class _Writer:
  """Writes the header of a safetensors file, then its tensors in any order."""

  def __init__(self, stream: BinaryIO, tensors: Mapping[str, np.ndarray]):
    self._stream = stream
    self._dtypes = {key: tensor.dtype for key, tensor in tensors.items()}
    # Wide types first, so that every tensor is aligned. PyTorch's readers
    # require the metadata.
    order = sorted(tensors, key=lambda key: (-tensors[key].itemsize, key))
    header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
    offsets, end = {}, 0
    for key in order:
      tensor = tensors[key]
      offsets[key] = end
      end += tensor.nbytes
      header[key] = dict(
        dtype=_NAMES[tensor.dtype],
        shape=list(tensor.shape),
        data_offsets=[offsets[key], end],
      )
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, 'little') + text)
    self._offsets = {key: 8 + len(text) + n for key, n in offsets.items()}

  def write(self, key: str, value: np.ndarray) -> None:
    """Writes one tensor, in the type that the header contains."""
    self._stream.seek(self._offsets[key])
    value = np.ascontiguousarray(value, self._dtypes[key])
    self._stream.write(value.view(np.uint8).data)
