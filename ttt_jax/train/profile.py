"""A window of steps that JAX' profiler looks at."""

from __future__ import annotations

import os
import tempfile

from etils import epath
import jax

from ttt_jax.runtime import disk
from ttt_jax.runtime import paths

FOLDER = 'profile'


class Profile:
  """Traces the steps FIRST:LAST, both included, of this process.

  TensorBoard and Perfetto show what it leaves in `folder`/profile.
  """

  def __init__(self, window: str, folder: str | os.PathLike[str], steps: int):
    """Takes the window.

    Args:
      window: 'FIRST:LAST', or '' for none.
      folder: of the stage.
      steps: of the stage; the window ends with it.

    Raises:
      ValueError: another window.
    """
    self._folder = epath.Path(folder) / FOLDER
    self._first = self._last = 0
    if not window:
      return
    first, _, last = window.partition(':')
    legal = first.isdecimal() and last.isdecimal()
    if not legal or not 0 < int(first) <= int(last):
      raise ValueError(
        f'the window of steps to profile is {window!r}; it must be'
        ' FIRST:LAST, for example 100:105'
      )
    self._first, self._last = int(first), min(int(last), steps)

  def before(self, step: int) -> None:
    """Begins a trace before the first step of the window."""
    if step == self._first and jax.process_index() == 0:
      self._local = str(self._folder)
      if paths.in_bucket(self._folder):
        self._local = tempfile.mkdtemp()
      jax.profiler.start_trace(self._local)

  def after(self, step: int, result: jax.Array) -> None:
    """Ends it behind the last one, when its `result` is there."""
    if step == self._last and jax.process_index() == 0:
      jax.block_until_ready(result)
      jax.profiler.stop_trace()
      disk.mirror(self._local, self._folder)
      print(f'wrote {self._folder}, steps {self._first} to {step}')
