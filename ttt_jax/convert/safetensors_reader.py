"""Weights in safetensors files: opened at once, read when asked for.

A folder holds one file, NAME.safetensors, or several with an index,
NAME.safetensors.index.json, that says which tensor is in which. Nothing but
safetensors and JSON is ever read: no file is unpickled. Files are read, not
mapped, so that memory holds the tensors in use and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

# Types that weights can have, by their names in the files.
DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(jnp.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor of a file, not read yet; `np.asarray` reads it.

  Attributes:
    file: that holds it.
    key: its name there.
    shape: of the tensor.
    dtype: a numpy type, or for what weights cannot have its name there.
    handle: of the open file.
  """

  file: pathlib.Path
  key: str
  shape: tuple[int, ...]
  dtype: np.dtype | str
  handle: Any = dataclasses.field(repr=False, compare=False)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    """The tensor, in `dtype` or its own; always a copy."""
    if isinstance(self.dtype, str):
      raise ValueError(
        f'{self.key} in {self.file} has type {self.dtype}; weights must be'
        f' one of {", ".join(DTYPES)}'
      )
    value = self.handle.get_tensor(self.key)
    return value if dtype is None else value.astype(dtype, copy=False)


class Tensors(Mapping[str, Tensor]):
  """The tensors of a model by their names.

  Attributes:
    name: of the file or the index, for messages.
    largest: bytes of the largest file.
  """

  def __init__(self, tensors: Mapping[str, Tensor], name: str, largest: int):
    self._tensors = dict(tensors)
    self.name, self.largest = name, largest

  def __getitem__(self, key: str) -> Tensor:
    return self._tensors[key]

  def __iter__(self) -> Iterator[str]:
    return iter(self._tensors)

  def __len__(self) -> int:
    return len(self._tensors)


def find_folder(folder: str | os.PathLike[str], part: str) -> pathlib.Path:
  """The folder of a part of a model, with its `config.json`.

  Args:
    folder: that folder, or the whole model's with `part` in it.
    part: such as 'transformer' or 'vae'.

  Raises:
    FileNotFoundError: neither.
  """
  folder = pathlib.Path(folder)
  for place in (folder, folder / part):
    if (place / 'config.json').is_file():
      return place
  raise FileNotFoundError(
    f'no config.json in {folder} or {folder / part}: it must be a folder as'
    ' save_pretrained writes it'
  )


def open_file(path: str | os.PathLike[str]) -> Tensors:
  """The tensors of one safetensors file.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is cut short or not safetensors.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f'no weights at {path}: a safetensors file belongs there'
    )
  try:
    handle = safetensors.safe_open(path, 'numpy', backend='pread')
  except (safetensors.SafetensorError, ValueError, OSError) as e:
    raise ValueError(
      f'{path} is not a whole safetensors file ({e}): copy it again'
    ) from e
  found = {}
  for key in handle.keys():
    part = handle.get_slice(key)
    dtype = DTYPES.get(part.get_dtype(), part.get_dtype())
    found[key] = Tensor(path, key, tuple(part.get_shape()), dtype, handle)
  return Tensors(found, str(path), path.stat().st_size)


def open_folder(folder: str | os.PathLike[str], name: str) -> Tensors:
  """The tensors of a folder, in one file or in several with an index.

  Args:
    folder: as `save_pretrained` writes it.
    name: of the weights, such as 'diffusion_pytorch_model' or 'model'.

  Raises:
    FileNotFoundError: no weights there, or a file that the index names.
    ValueError: a file is cut short, or the index does not fit the files: all
      differences in one message.
  """
  folder = pathlib.Path(folder)
  index = folder / f'{name}.safetensors.index.json'
  if not index.is_file():
    _check_there(folder, name)
    return open_file(folder / f'{name}.safetensors')
  places = _read_index(index)
  missing = sorted(
    {file for file in places.values() if not (folder / file).is_file()}
  )
  if missing:
    raise FileNotFoundError(
      f'{index} names files that are not there: {", ".join(missing)}; copy'
      ' them, too'
    )
  shards = {
    file: open_file(folder / file) for file in sorted(set(places.values()))
  }
  problems = [
    f'{key} is not in {file}'
    for key, file in places.items()
    if key not in shards[file]
  ]
  problems += [
    f'{key} in {file} is not in the index'
    for file, shard in shards.items()
    for key in shard
    if places.get(key) != file
  ]
  if problems:
    raise ValueError(
      f'{index} does not fit its files, {len(problems)} problem(s): '
      + '; '.join(problems)
    )
  found = {key: shards[file][key] for key, file in places.items()}
  largest = max(shard.largest for shard in shards.values())
  return Tensors(found, str(index), largest)


def _check_there(folder: pathlib.Path, name: str) -> None:
  """Says what is there instead of NAME.safetensors, if that is a pickle."""
  if (folder / f'{name}.safetensors').is_file():
    return
  pickles = sorted(
    path.name
    for kind in ('bin', 'pt', 'pth')
    for path in folder.glob(f'*.{kind}')
  )
  if pickles:
    raise FileNotFoundError(
      f'no {name}.safetensors in {folder}, only {", ".join(pickles)}: such'
      ' files can run code and are not opened; save the model again with'
      ' save_pretrained(..., safe_serialization=True)'
    )


def _read_index(path: pathlib.Path) -> dict[str, str]:
  """Key -> file name of an index."""
  try:
    places = json.loads(path.read_text())['weight_map']
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(
      f'{path} is no index of safetensors files ({type(e).__name__}: {e}):'
      ' it needs an object "weight_map"'
    ) from e
  odd = (
    [
      file
      for file in places.values()
      if not isinstance(file, str) or pathlib.PurePath(file).name != file
    ]
    if isinstance(places, dict) and places
    else [places]
  )
  if odd:
    raise ValueError(
      f'{path}: {odd[0]!r} in "weight_map" does not name a file of its folder'
    )
  return places
