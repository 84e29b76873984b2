"""Reads and writes small files; a file is complete or absent."""

from __future__ import annotations

from collections.abc import Generator
import contextlib
import json
import os
import pathlib
import re
import shutil
from typing import Any
import uuid

from etils import epath
import ml_collections
import numpy as np

from ttt_jax.runtime import paths


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
    temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:12]}.tmp')
  try:
    yield temporary
    if temporary != path:
      with open(temporary, 'rb') as file:
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
  If the block fails, it is removed and `path` does not appear.

  Raises:
    FileExistsError: `path` is a file, or a folder that is not empty.
  """
  path = pathlib.Path(path)
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise FileExistsError(
      f'{path} exists and is not replaced; choose another folder'
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:12]}.tmp')
  temporary.mkdir()
  try:
    yield temporary
    temporary.rename(path)
  finally:
    # After the rename there is nothing to remove.
    shutil.rmtree(temporary, ignore_errors=True)


def read_json(path: str | os.PathLike[str]) -> Any:
  """Returns the value of a JSON file, the list of the lines' of a JSONL file.

  Args:
    path: Local path, or one that begins with 'package:'; see `paths.resolve`.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is a folder, not UTF-8 or not JSON; with line and column.
  """
  path = paths.resolve(path)
  if not path.is_file():
    raise ValueError(f'{path} is a folder; name a JSON or JSONL file')
  try:
    text = path.read_text('utf-8-sig')
  except UnicodeDecodeError as e:
    raise ValueError(
      f'{path} is not UTF-8 text: byte {e.start} cannot be read'
    ) from e
  is_jsonl = path.suffix == '.jsonl'
  lines = enumerate(text.split('\n'), 1) if is_jsonl else [(1, text)]
  values = []
  for number, line in lines:
    if is_jsonl and not line.strip():
      continue
    try:
      values.append(json.loads(line))
    except json.JSONDecodeError as e:
      raise ValueError(
        f'{path}: not JSON, line {e.lineno + number - 1}, column {e.colno}:'
        f' {e.msg}'
      ) from e
  return values if is_jsonl else values[0]


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
