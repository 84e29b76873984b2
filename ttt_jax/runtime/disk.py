"""Folders on disks, which may be full, and in buckets."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import errno
import logging
import os
import pathlib
import shutil
import threading
from typing import Any
import warnings

from etils import epath
import jax

from ttt_jax.runtime import paths


def is_full(error: BaseException | None) -> bool:
  """Whether an error, or one it came from, says that no space is left."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in (
      errno.ENOSPC,
      errno.EDQUOT,
    ):
      return True
    # TensorStore tells it in words.
    if any(
      words in str(error)
      for words in ('No space left on device', 'Disk quota exceeded')
    ):
      return True
    error = error.__cause__ or error.__context__
  return False


def mirror(folder: str | os.PathLike[str], bucket: epath.Path) -> None:
  """Copies the files of a local folder to another place, if it is another."""
  if epath.Path(folder) == bucket:
    return
  for path in pathlib.Path(folder).rglob('*'):
    if path.is_file():
      copy = bucket / str(path.relative_to(folder))
      copy.parent.mkdir(parents=True, exist_ok=True)
      epath.Path(path).copy(copy, overwrite=True)


@contextlib.contextmanager
def may_wait(path: str | os.PathLike[str]) -> Iterator[None]:
  """Warns of an error in writing to a bucket, where a later write does.

  A service that fails for a minute need not end a run for a curve's sake.
  """
  try:
    yield
  except Exception as e:  # pylint: disable=broad-except
    if not paths.in_bucket(path):
      raise
    warnings.warn(f'{path} cannot be written now: {e or type(e).__name__}')


def check_space(folder: os.PathLike[str], tree: Any) -> None:
  """Raises OSError ENOSPC if the arrays of `tree` have no room in `folder`."""
  if paths.in_bucket(folder):
    return
  needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise OSError(
      errno.ENOSPC,
      f'{needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free',
    )


@contextlib.contextmanager
def quiet_threads() -> Iterator[None]:
  """Keeps threads that meet a full disk from printing a traceback each.

  The error reaches us as an exception of Orbax' next call.
  """
  hook = threading.excepthook
  threading.excepthook = lambda a: is_full(a.exc_value) or hook(a)
  try:
    yield
  finally:
    threading.excepthook = hook


def not_orbax(record: logging.LogRecord) -> bool:
  """A logging filter: Orbax logs every phase, and a traceback per thread."""
  return '/orbax/' not in record.pathname
