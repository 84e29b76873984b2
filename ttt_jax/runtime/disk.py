"""Full disks, copies into buckets, and writes to buckets that fail."""

from __future__ import annotations

from collections.abc import Generator
import contextlib
import errno
import importlib
import logging
import os
import pathlib
import shutil
import tempfile
import threading
from typing import Any
import warnings

from etils import epath
import jax

from ttt_jax.runtime import paths

# TensorStore's errors have no number.
_FULL = ('No space left on device', 'Disk quota exceeded')


def is_full(error: BaseException | None) -> bool:
  """Returns whether an error, or one that it came from, is of a full disk."""
  while error is not None:
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
      return True
    if any(words in str(error) for words in _FULL):
      return True
    error = error.__cause__ or error.__context__
  return False


def copy_to(folder: str | os.PathLike[str], target: epath.Path) -> None:
  """Copies the files of a local folder to another one, local or in a bucket."""
  if epath.Path(folder) == target:
    return
  for path in pathlib.Path(folder).rglob('*'):
    if path.is_file():
      copy = target / str(path.relative_to(folder))
      copy.parent.mkdir(parents=True, exist_ok=True)
      epath.Path(path).copy(copy, overwrite=True)


@contextlib.contextmanager
def tolerate_bucket_errors(path: str | os.PathLike[str]) -> Generator[None]:
  """Turns an error of a write to a bucket into a warning.

  For files that are written again later, such as curves: a service that fails
  for a minute should not end a run. Errors on a local disk are raised.
  """
  try:
    yield
  except Exception as e:
    if not paths.is_remote(path):
      raise
    warnings.warn(
      f'{path} cannot be written now: {e or type(e).__name__}', stacklevel=2
    )


def check_space(folder: os.PathLike[str], tree: Any) -> None:
  """Raises OSError ENOSPC if the arrays of `tree` do not fit into `folder`."""
  if paths.is_remote(folder):
    return
  needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise OSError(
      errno.ENOSPC,
      f'{needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free',
    )


@contextlib.contextmanager
def silence_disk_full_threads() -> Generator[None]:
  """Suppresses the tracebacks of threads that fail because of a full disk.

  The error is raised again by the next call into Orbax.
  """
  hook = threading.excepthook
  threading.excepthook = lambda a: is_full(a.exc_value) or hook(a)
  try:
    yield
  finally:
    threading.excepthook = hook


def avoid_locks(folder: str | os.PathLike[str]) -> None:
  """Makes Orbax use lock files if the file system of `folder` has no locks.

  Lustre and FUSE may have none. TensorStore then needs another mode of locking,
  which Orbax does not pass on: its defaults are changed. If they are elsewhere
  in another version, saving reports the missing locks.
  """
  if paths.is_remote(folder) or os.name == 'nt':
    return
  fcntl = importlib.import_module('fcntl')  # Windows has none.
  with tempfile.TemporaryFile(dir=folder) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return
    except OSError:
      pass
  with contextlib.suppress(ImportError, AttributeError):
    module = importlib.import_module(
      'orbax.checkpoint._src.serialization.tensorstore_utils'
    )
    for context in (module._BASE_TS_CONTEXT, module._DEFAULT_OCDBT_TS_CONTEXT):
      context['file_io_locking'] = {'mode': 'lockfile'}


def drop_orbax_logs(record: logging.LogRecord) -> bool:
  """Logging filter: Orbax logs every phase, and a traceback per thread."""
  return '/orbax/' not in record.pathname
