"""Weights in safetensors files: opened at once, read on demand.

A folder contains one file, NAME.safetensors, or several with an index,
NAME.safetensors.index.json, which maps tensors to files. Only safetensors and
JSON are read: no file is unpickled. Files are read, not mapped, so that
memory holds only the tensors in use.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

# Name in the files -> type that weights can have.
DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(jnp.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor of a file that is not read yet; `np.asarray` reads it.

  Attributes:
    file: Path of the file.
    key: Name of the tensor in the file.
    shape: Shape of the tensor.
    dtype: Numpy type; the name in the file for a type that weights cannot
      have.
    handle: Handle of the open file.
  """

  file: pathlib.Path
  key: str
  shape: tuple[int, ...]
  dtype: np.dtype | str
  handle: Any = dataclasses.field(repr=False, compare=False)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    """Returns the tensor as a copy, in `dtype` or its own type."""
    if isinstance(self.dtype, str):
      raise ValueError(
        f'{self.key} in {self.file} has type {self.dtype}; weights must be'
        f' one of {", ".join(DTYPES)}'
      )
    value = self.handle.get_tensor(self.key)
    return value if dtype is None else value.astype(dtype, copy=False)


class Tensors(dict[str, Tensor]):
  """The tensors of a model by name.

  Attributes:
    name: Path of the file or the index, for messages.
  """

  def __init__(self, tensors: Mapping[str, Tensor], name: str):
    super().__init__(tensors)
    self.name = name


def find_folder(folder: str | os.PathLike[str], part: str) -> pathlib.Path:
  """Returns the folder of a part of a model, which contains `config.json`.

  Args:
    folder: Folder of the part, or of the complete model.
    part: Name of the part, such as 'transformer' or 'vae'.

  Raises:
    FileNotFoundError: neither folder contains the part.
  """
  folder = pathlib.Path(folder)
  for path in (folder, folder / part):
    if (path / 'config.json').is_file():
      return path
  raise FileNotFoundError(
    f'no config.json in {folder} or {folder / part}: it must be a folder as'
    ' save_pretrained writes it'
  )


def open_file(path: str | os.PathLike[str]) -> Tensors:
  """Returns the tensors of one safetensors file.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file is truncated or not safetensors.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f'no weights at {path}: a safetensors file is required'
    )
  try:
    handle = safetensors.safe_open(path, 'numpy', backend='pread')
  except (safetensors.SafetensorError, ValueError, OSError) as e:
    raise ValueError(
      f'{path} is not a complete safetensors file ({e}): copy it again'
    ) from e
  found = {}
  for key in handle.keys():
    part = handle.get_slice(key)
    dtype = DTYPES.get(part.get_dtype(), part.get_dtype())
    found[key] = Tensor(path, key, tuple(part.get_shape()), dtype, handle)
  return Tensors(found, str(path))


def open_folder(folder: str | os.PathLike[str], name: str) -> Tensors:
  """Returns the tensors of a folder, from one file or several with an index.

  Args:
    folder: Folder in the layout of `save_pretrained`.
    name: Name of the weights, such as 'diffusion_pytorch_model' or 'model'.

  Raises:
    FileNotFoundError: the weights, or a file in the index, are missing.
    ValueError: a file is truncated, or the index does not fit the files: all
      differences in one message.
  """
  folder = pathlib.Path(folder)
  index = folder / f'{name}.safetensors.index.json'
  if not index.is_file():
    _check_no_pickles(folder, name)
    return open_file(folder / f'{name}.safetensors')
  files = _read_index(index)
  missing = sorted(
    {file for file in files.values() if not (folder / file).is_file()}
  )
  if missing:
    raise FileNotFoundError(
      f'{index} lists files that do not exist: {", ".join(missing)}; copy'
      ' them, too'
    )
  shards = {
    file: open_file(folder / file) for file in sorted(set(files.values()))
  }
  problems = [
    f'{key} is not in {file}'
    for key, file in files.items()
    if key not in shards[file]
  ]
  problems += [
    f'{key} in {file} is not in the index'
    for file, shard in shards.items()
    for key in shard
    if files.get(key) != file
  ]
  if problems:
    raise ValueError(
      f'{index} does not fit its files, {len(problems)} problem(s): '
      + '; '.join(problems)
    )
  found = {key: shards[file][key] for key, file in files.items()}
  return Tensors(found, str(index))


def _check_no_pickles(folder: pathlib.Path, name: str) -> None:
  """Raises FileNotFoundError if the folder contains only pickled weights."""
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
  """Returns key -> file name from an index."""
  try:
    files = dict(json.loads(path.read_text())['weight_map'])
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(
      f'{path} is not an index of safetensors files ({type(e).__name__}: {e}):'
      ' it needs an object "weight_map"'
    ) from e
  if not files:
    raise ValueError(f'{path}: "weight_map" is empty; copy it again')
  for file in files.values():
    if not isinstance(file, str) or pathlib.PurePath(file).name != file:
      raise ValueError(
        f'{path}: "weight_map" contains {file!r}, which is not a file name'
      )
  return files
