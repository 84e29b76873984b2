"""Weights in safetensors files: opened at once, read on demand.

A folder contains one file, NAME.safetensors, or several with an index,
NAME.safetensors.index.json, which maps tensors to files. Without them, those
of a variant such as fp16 are read. Only safetensors and JSON are read: no file
is unpickled. Files are read, not mapped, so that memory holds only the tensors
in use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import os
import pathlib
import re
from typing import Any

from absl import logging
import jax.numpy as jnp
import numpy as np
import safetensors

from ttt_jax.convert import model_folder
from ttt_jax.runtime import files
from ttt_jax.runtime import schema

# Name in the files -> type that weights can have.
DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(jnp.bfloat16),
}
# A file next to its index: no path, and short enough for every file system.
_FILE_NAME = re.compile(r'[^/\\\x00-\x1f\x7f]{1,243}\.safetensors')
# Characters of one problem in a message, and of several in one line.
_LONGEST = 200
_ONE_LINE = 400


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
        f'{self.key} in {self.file} has type {self.dtype}; expected one'
        f' of {", ".join(DTYPES)}'
      )
    try:
      value = self.handle.get_tensor(self.key)
    except (safetensors.SafetensorError, OSError) as e:
      raise ValueError(
        f'{self.key} in {self.file} cannot be read: {files.first_line(e)}'
      ) from e
    check_finite(is_finite(value), f'{self.key} in {self.file}')
    return value if dtype is None else value.astype(dtype, copy=False)


class Tensors(dict[str, Tensor]):
  """The tensors of a model by name.

  Attributes:
    name: Path of the file or the index, for messages.
  """

  def __init__(self, tensors: Mapping[str, Tensor], name: str):
    super().__init__(tensors)
    self.name = name


def is_finite(value: np.ndarray) -> bool:
  """Returns whether an array contains neither NaN nor infinity."""
  if value.itemsize != 2:
    return bool(np.isfinite(value).all())
  # numpy's function takes five times as long for half precision: all bits of
  # the exponent are set.
  infinity = np.array(np.inf, value.dtype).view(np.uint16)
  return bool((value.view(np.uint16) & 0x7FFF).max(initial=0) < infinity)


def check_finite(finite: bool, name: str) -> None:
  """Raises ValueError unless weights are `finite`."""
  if not finite:
    raise ValueError(
      f'{name} contains NaN or infinity, so the model is damaged: download or'
      ' save it again'
    )


def open_file(path: str | os.PathLike[str]) -> Tensors:
  """Returns the tensors of one safetensors file.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file is truncated or not safetensors.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'no weights at {path}: {_explain_missing(path)}')
  try:
    handle = safetensors.safe_open(path, 'numpy', backend='pread')
    found = {}
    for key in handle.keys():
      part = handle.get_slice(key)
      dtype = DTYPES.get(part.get_dtype(), part.get_dtype())
      found[key] = Tensor(path, key, tuple(part.get_shape()), dtype, handle)
  except (safetensors.SafetensorError, ValueError, OSError) as e:
    reason = model_folder.describe_damage(path)
    if reason:
      raise ValueError(f'{path} {reason}') from e
    raise ValueError(
      f'{path} is not a complete safetensors file ({files.first_line(e)[:99]}):'
      ' copy it again'
    ) from e
  return Tensors(found, str(path))


def open_folder(folder: str | os.PathLike[str], name: str) -> Tensors:
  """Returns the tensors of a folder, from one file or several with an index.

  Args:
    folder: Folder in the layout of `save_pretrained`.
    name: Name of the weights, such as 'diffusion_pytorch_model' or 'model'.

  Raises:
    FileNotFoundError: the weights, or a file in the index, are missing.
    ValueError: a file is truncated, the index does not fit the files, or two
      copies of the weights differ.
  """
  folder = pathlib.Path(folder)
  variants = _find_variants(folder, name)
  if not variants:
    # Its error lists the files.
    return open_file(folder / f'{name}.safetensors')
  if '' not in variants and len(variants) > 1:
    raise ValueError(
      f'{folder} has no {name}.safetensors, but several variants:'
      f' {", ".join(variants)}; keep the files of one of them'
    )
  chosen = '' if '' in variants else next(iter(variants))
  sources = variants[chosen]
  opened = [_open(path) for path in sources]
  for path, tensors in zip(sources[1:], opened[1:]):
    _check_equal(sources[0], opened[0], path, tensors)
  ignored = [p for v, found in variants.items() if v != chosen for p in found]
  ignored += [
    p for p in _pickles(folder) if p.name.startswith((name, 'pytorch'))
  ]
  if ignored:
    _say_once(
      f'{sources[0]} is read;'
      f' {files.first_ten([path.name for path in ignored])} not'
    )
  return opened[0]


@functools.cache
def _say_once(message: str) -> None:
  logging.warning(message)


def _find_variants(
  folder: pathlib.Path, name: str
) -> dict[str, list[pathlib.Path]]:
  """Returns variant ('' is none) -> its file, its index, or both."""
  # Of an index, both spellings occur.
  pattern = re.compile(
    rf'{re.escape(name)}(?:\.(\w+))?\.safetensors'
    r'(?:\.index(?:\.(\w+))?\.json)?'
  )
  found: dict[str, list[pathlib.Path]] = {}
  for path in sorted(folder.iterdir()) if folder.is_dir() else ():
    match = pattern.fullmatch(path.name)
    if match:
      found.setdefault(match[1] or match[2] or '', []).append(path)
  return dict(sorted(found.items()))


def _pickles(folder: pathlib.Path) -> list[pathlib.Path]:
  return [
    path
    for suffix in model_folder.PICKLES
    for path in sorted(folder.glob(f'*{suffix}'))
  ]


def _explain_missing(path: pathlib.Path) -> str:
  """Returns the reason why there are no weights at `path`, and a remedy."""
  folder, name = path.parent, path.stem
  if path.is_symlink():
    return model_folder.describe(path)
  shards = sorted(p.name for p in folder.glob(f'{name}*-of-*.safetensors'))
  if shards:
    return (
      f'there are {files.first_ten(shards)}, but not {path.name}.index.json;'
      ' copy it, too'
    )
  if pickles := _pickles(folder):
    return (
      f'only {files.first_ten([p.name for p in pickles])}: such files can run'
      ' code and are not opened; save the model again with'
      ' save_pretrained(..., safe_serialization=True)'
    )
  return model_folder.describe_download(folder) or (
    'a safetensors file is required'
  )


def _open(path: pathlib.Path) -> Tensors:
  """Returns the tensors of a file, or those of an index."""
  if path.suffix != '.json':
    return open_file(path)
  places = _read_index(path)
  folder = path.parent
  names = sorted(set(places.values()))
  missing = [name for name in names if not (folder / name).is_file()]
  if missing:
    reason = model_folder.describe_download(folder) or (
      model_folder.describe(folder / missing[0])
      if (folder / missing[0]).is_symlink()
      else 'copy them, too'
    )
    raise FileNotFoundError(
      f'{path} lists {len(missing)} file(s) that do not exist:'
      f' {files.first_ten(missing)}; {reason}'
    )
  shards = {name: open_file(folder / name) for name in names}
  problems = [
    f'{key} is not in {name}'
    for key, name in places.items()
    if key not in shards[name]
  ]
  problems += [
    f'{key} in {name} is not in the index'
    if key not in places
    else f'{key} in {name} is in {places[key]}, too'
    for name, shard in shards.items()
    for key in shard
    if places.get(key) != name
  ]
  if problems:
    raise ValueError(
      f'{path} does not fit its files, {len(problems)} problem(s):'
      f'{list_problems(problems)}'
    )
  return Tensors(
    {key: shards[name][key] for key, name in places.items()}, str(path)
  )


def list_problems(problems: Sequence[str]) -> str:
  """Returns ' ' and a few problems, or the first ten of many in lines."""
  shorter = [_shorten(problem) for problem in problems]
  if sum(map(len, shorter)) <= _ONE_LINE:
    return ' ' + '; '.join(shorter)
  return '\n  ' + files.first_ten(shorter, '\n  ')


def _shorten(text: str) -> str:
  """Returns the beginning of a text with names from files, on one line."""
  text = text if len(text) <= _LONGEST else f'{text[: _LONGEST - 3]}...'
  return re.sub(r'[\x00-\x1f\x7f]', lambda found: repr(found[0])[1:-1], text)


def is_equal(a: Any, b: Any) -> bool:
  """Returns whether two tensors have equal shapes and values."""
  return a.shape == b.shape and np.array_equal(
    np.asarray(a, np.float64), np.asarray(b, np.float64)
  )


def _check_equal(
  path: pathlib.Path, a: Tensors, other: pathlib.Path, b: Tensors
) -> None:
  """Raises ValueError if two copies of weights differ."""
  for key in sorted(a.keys() | b.keys()):
    if key not in a or key not in b or not is_equal(a[key], b[key]):
      raise ValueError(
        f'{path} and {other.name} contain different weights, the first is'
        f' {_shorten(key)}; keep one of them'
      )


def _read_index(path: pathlib.Path) -> dict[str, str]:
  """Returns key -> file name from an index."""
  found = files.read_json(path)
  try:
    places = dict(found['weight_map'])
  except (KeyError, TypeError, ValueError, IndexError) as e:
    raise ValueError(
      f'{path} is not an index of safetensors files: it needs an object'
      ' "weight_map"'
    ) from e
  if not places:
    raise ValueError(f'{path}: "weight_map" is empty; copy it again')
  for name in places.values():
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
      raise ValueError(
        f'{path}: "weight_map" contains {schema.show(name)}, which is not the'
        ' name of a safetensors file next to it'
      )
  return places
