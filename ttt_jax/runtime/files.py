"""Reads and writes small files; a file is complete or absent."""

from __future__ import annotations

import codecs
from collections.abc import Generator, Sequence
import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import stat
import tempfile
from typing import Any, NoReturn
import uuid

from etils import epath
import ml_collections
import numpy as np

from ttt_jax.runtime import paths

LINE_SUFFIXES = ('.jsonl', '.ndjson')  # Files with one JSON value per line.
_LFS_POINTER = b'version https://git-lfs'


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Generator[epath.Path]:
  """Yields a temporary path; the file written there then replaces `path`.

  The temporary file has a unique name in the same folder, which ends in
  '.tmp', so several processes can write the same file. If the block fails,
  `path` is left as it was and the temporary file is removed. In a bucket an
  object appears only once it is complete, so `path` itself is yielded.

  Raises:
    FileNotFoundError: the folder of `path` does not exist.
    ValueError: an OSError occurred, for example on a full disk.
  """
  path = epath.Path(path)
  if paths.is_remote(path):
    temporary = path
  else:
    if not path.parent.is_dir():
      raise FileNotFoundError(f'there is no folder {path.parent} for {path}')
    temporary = path.with_name(_temporary_name(path.name))
  try:
    yield temporary
    if temporary != path:
      with open(temporary, 'rb+') as file:  # Windows syncs no reader's.
        os.fsync(file.fileno())
      os.replace(temporary, path)
  except OSError as e:
    raise write_error(path, e) from e
  finally:
    if temporary != path:
      with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Generator[pathlib.Path]:
  """Yields a new temporary folder, which then becomes the local `path`.

  The temporary folder has a unique name next to `path`, which ends in '.tmp'.
  If the block fails, it is removed and neither `path` nor its folder appears.

  Raises:
    FileExistsError: `path` is a file, or a folder that is not empty.
    ValueError: the temporary folder cannot be created.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(_temporary_name(path.name))
  try:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
      raise FileExistsError(
        f'{path} exists and is not replaced; choose another folder'
      )
    new = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.mkdir()
  except OSError as e:
    if isinstance(e, FileExistsError) and not e.errno:
      raise
    raise write_error(path, e) from e
  try:
    yield temporary
    temporary.rename(path)
  finally:
    # After the rename there is nothing to remove.
    shutil.rmtree(temporary, ignore_errors=True)
    for parent in new:
      with contextlib.suppress(OSError):  # It is not empty.
        parent.rmdir()


def _temporary_name(name: str) -> str:
  """Returns an unused name next to `name`, also if that has 255 bytes."""
  return f'.{name[:40]}.{uuid.uuid4().hex[:12]}.tmp'


def check_writable(
  path: str | os.PathLike[str], *, folder: bool = False
) -> None:
  """Raises an error unless `path` can be written; removes what it writes.

  For results that are written after long work. A path in a bucket is not
  checked, see `bucket.check`.

  Args:
    path: File or folder that may not exist yet. The folder of a file must
      exist.
    folder: Whether `path` is to be a folder.

  Raises:
    ValueError: it cannot be written; with the reason.
  """
  if paths.is_remote(path):
    return
  target = place = pathlib.Path(os.path.abspath(path))
  try:
    while True:
      try:
        is_folder = stat.S_ISDIR(os.stat(place).st_mode)
        break
      except FileNotFoundError:
        place = place.parent
    if place == target and is_folder != folder:
      number = errno.EISDIR if is_folder else errno.ENOTDIR
      raise OSError(number, os.strerror(number))
    if not folder and place not in (target, target.parent):
      raise OSError(errno.ENOENT, f'there is no folder {target.parent}')
    tempfile.TemporaryFile(dir=place if is_folder else place.parent).close()
  except (OSError, ValueError) as e:
    raise ValueError(
      f'{path} cannot be written: {first_line(e)}; choose another path'
    ) from e


def is_lfs_pointer(path: str | os.PathLike[str]) -> bool:
  """Returns whether a file is Git LFS's placeholder for one not downloaded."""
  try:
    if os.path.getsize(path) > 1024:  # Opening takes longer on a network.
      return False
    with open(path, 'rb') as file:
      return file.read(len(_LFS_POINTER)) == _LFS_POINTER
  except OSError:
    return False


def read_text(path: str | os.PathLike[str]) -> str:
  """Returns the text of a UTF-8 file, or of a UTF-16 file with its mark.

  Args:
    path: Local path, or one that begins with 'package:'; see `paths.resolve`.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a file, cannot be read or has another encoding.
  """
  path = paths.resolve(path)
  if not path.is_file():
    kind = 'a folder' if path.is_dir() else 'not a file'
    raise ValueError(f'{path} is {kind}; name a file')
  try:
    data = path.read_bytes()
  except OSError as e:
    raise ValueError(f'{path} cannot be read: {first_line(e)}') from e
  if data.startswith(_LFS_POINTER):
    raise ValueError(
      f'{path} is a pointer of Git LFS, not the file; run git lfs pull'
    )
  wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
  try:
    return data.decode('utf-16' if wide else 'utf-8-sig')
  except UnicodeDecodeError as e:
    raise ValueError(
      f'{path} is not UTF-8 text: byte {e.start} cannot be read'
    ) from e


def read_json(path: str | os.PathLike[str], *, constants: bool = False) -> Any:
  """Returns the value of a JSON file, the list of the lines' of a JSONL file.

  Args:
    path: Path of `read_text`; '.jsonl' and '.ndjson' have a value per line.
    constants: Accepts NaN and Infinity, which diffusers writes for schedulers.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: as `read_text`, or it is not JSON (with line and column), has
      an object with two equal keys, NaN or Infinity, or is nested too deeply.
  """
  text = read_text(path)
  if pathlib.Path(path).suffix.lower() not in LINE_SUFFIXES:
    return parse_json(text, path, constants=constants)
  return [
    parse_json(line, path, number)
    for number, line in enumerate(text.split('\n'), 1)
    if line.strip()
  ]


def parse_json(
  text: str,
  path: str | os.PathLike[str],
  line: int | None = None,
  constants: bool = False,
) -> Any:
  """Returns the value of a JSON text; raises ValueError as `read_json`.

  Args:
    text: Text of one value.
    path: Path of the file, for the message.
    line: Line of the value in a file of several.
    constants: Whether NaN and infinities are values.
  """
  try:
    value = json.loads(
      text,
      object_pairs_hook=_unique,
      parse_constant=None if constants else _refuse_constant,
    )
    if '\\u' in text:  # Half of a surrogate pair can be escaped.
      json.dumps(value, ensure_ascii=False).encode()
    return value
  except json.JSONDecodeError as e:
    hint = '; a file with a value per line must end in .jsonl'
    raise ValueError(
      f'{path}: not JSON, line {e.lineno + (line or 1) - 1}, column {e.colno}:'
      f' {e.msg}{hint if e.msg == "Extra data" and not line else ""}'
    ) from e
  except (ValueError, RecursionError) as e:
    where = f', line {line}' if line else ''
    reason = first_line(e)
    if isinstance(e, RecursionError):
      reason = 'it is nested too deeply'
    elif isinstance(e, UnicodeEncodeError):
      reason = f'{e.object[e.start]!r} is half of a surrogate pair'
    raise ValueError(f'{path}{where}: not valid JSON: {reason}') from e


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  found: dict[str, Any] = {}
  for key, value in pairs:
    if key in found:
      raise ValueError(f'an object has the key {key!r} twice; keep one')
    found[key] = value
  return found


def _refuse_constant(name: str) -> NoReturn:
  raise ValueError(f'{name} is not a number in JSON')


def first_ten(items: Sequence[str], separator: str = ', ') -> str:
  """Returns the first ten of many items for a message, and the number left."""
  more = f'{separator}and {len(items) - 10} more' if len(items) > 10 else ''
  return separator.join(items[:10]) + more


def write_json(
  value: Any, path: str | os.PathLike[str], indent: int = 1
) -> None:
  """Writes JSON by `atomic_write`."""
  with atomic_write(path) as temporary:
    temporary.write_text(json.dumps(value, indent=indent) + '\n')


def to_json_types(value: Any) -> Any:
  """Returns a value as JSON returns it: tuples as lists, numbers of Python.

  Supports NumPy numbers and arrays and `ConfigDict`s, too.
  """

  def convert(x):
    if isinstance(x, np.generic | np.ndarray):
      return x.tolist()
    if isinstance(x, ml_collections.ConfigDict):
      return x.to_dict()
    raise TypeError(f'{x!r} cannot be written as JSON')

  return json.loads(json.dumps(value, default=convert))


def write_error(path: str | os.PathLike[str], error: Exception) -> ValueError:
  """Returns the one-line error for a write that failed."""
  reason = first_line(error)
  if not getattr(error, 'strerror', None):
    reason = reason.rsplit(': ', 1)[-1]  # TensorStore's begins with the path.
  return ValueError(
    f'could not write {path}: {reason}; free some space or choose another'
    ' folder, then run the same command again'
  )


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's text, else the name of its type.

  Of an OSError it is the reason without the number and the path. The details
  that TensorStore appends, such as ' [os_error_code=...]', are removed.
  """
  text = str(getattr(error, 'strerror', None) or error).strip()
  text = re.split(r' \[\w+=', text.partition('\n')[0])[0]
  return text or type(error).__name__
