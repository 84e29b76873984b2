"""Traces a range of steps with JAX's profiler."""

from __future__ import annotations

import os
import re
import tempfile

from etils import epath
import jax

from ttt_jax.runtime import disk
from ttt_jax.runtime import paths

FOLDER = 'profile'


def check(window: str) -> tuple[int, int]:
  """Parses 'FIRST:LAST'; '' is (0, 0). Raises ValueError otherwise."""
  if not window:
    return 0, 0
  match = re.fullmatch(r'(\d{1,9}):(\d{1,9})', window, re.ASCII)
  first, last = map(int, match.groups()) if match else (0, 0)
  if not 0 < first <= last:
    raise ValueError(
      f'the range of steps to profile is {window!r}; it must be FIRST:LAST,'
      ' for example 100:105'
    )
  return first, last


class Profile:
  """Traces the steps FIRST to LAST, inclusive, of the first process.

  TensorBoard and Perfetto display the trace in `folder`/profile.
  """

  def __init__(self, window: str, folder: str | os.PathLike[str], steps: int):
    """Parses the range of steps.

    Args:
      window: 'FIRST:LAST', or '' for no trace.
      folder: Folder of the stage.
      steps: Steps of the stage, the limit of LAST.

    Raises:
      ValueError: a malformed range.
    """
    self._folder = epath.Path(folder) / FOLDER
    self._first, last = check(window)
    self._last = min(last, steps)

  def before(self, step: int) -> None:
    """Starts the trace if `step` is the first of the range."""
    if step == self._first and jax.process_index() == 0:
      self._local = str(self._folder)
      if paths.is_remote(self._folder):
        self._local = tempfile.mkdtemp()
      jax.profiler.start_trace(self._local)

  def after(self, step: int, result: jax.Array) -> None:
    """Ends the trace if `step` is the last one, once `result` is computed."""
    if step == self._last and jax.process_index() == 0:
      jax.block_until_ready(result)
      jax.profiler.stop_trace()
      disk.copy_to(self._local, self._folder)
      print(f'wrote {self._folder}, steps {self._first} to {step}')
