"""What restarts cost a stage, kept in a small file of its folder."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from etils import epath

from ttt_jax import paths
from ttt_jax.train import disk

FILE = 'goodput.json'
_EVERY = 10.0  # seconds between two writes


class Goodput:
  """Adds up the time that led to no step, over all starts of a stage.

  A start that goes on from step n loses what the one before did after n, and
  the time from its last sign of life to the first new step. A run that ended
  by itself leaves nothing to lose.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    step: int,
    saved: float | None,
    active: bool = True,
  ):
    """Reads the file of earlier starts.

    Args:
      folder: of the stage.
      step: from which this start goes on.
      saved: when that step was saved, seconds since 1970; None at the
        beginning.
      active: whether to write; one process does.
    """
    self._path = epath.Path(folder) / FILE
    self._active, self._written = active, 0.0
    self._step, self._saved, self._waiting = step, saved, True
    self._file: dict[str, Any] = dict(
      began=time.time(),
      starts=0,
      redone_steps=0,
      redone_seconds=0.0,
      down_seconds=0.0,
      step=step,
      time=None,
      done=False,
    )
    if step:
      try:
        self._file |= json.loads(self._path.read_text())
      except (OSError, ValueError):
        pass  # A folder of an earlier version, or cut off.
    self._file['starts'] += 1

  def finished(self, step: int) -> None:
    """Called when a step's numbers are known to be good."""
    now, file = time.time(), self._file
    if self._waiting:
      self._waiting = False
      # Steps of a start that got no further than this one are not lost.
      if file['time'] and not file['done']:
        file['redone_steps'] += max(0, file['step'] - self._step)
        file['redone_seconds'] += max(0.0, file['time'] - (self._saved or 0))
        file['down_seconds'] += max(0.0, now - file['time'])
    file.update(step=step, time=now, done=False)
    self._write(now)

  def row(self) -> dict[str, float]:
    """Metrics: the share of time that was not lost, and what was."""
    file = self._file
    if not file['time']:
      return {}
    whole = max(file['time'] - file['began'], 1e-9)
    lost = file['redone_seconds'] + file['down_seconds']
    return {
      'goodput/share': max(0.0, 1 - lost / whole),
      'goodput/lost_seconds': lost,
      'goodput/redone_steps': file['redone_steps'],
      'goodput/starts': file['starts'],
    }

  def close(self, done: bool) -> None:
    """Writes the file; `done` if the stage is."""
    self._file['done'] = done
    self._write(time.time(), always=True)

  def _write(self, now: float, always: bool = False) -> None:
    if not self._active or not always and now - self._written < _EVERY:
      return
    self._written = now
    text = json.dumps(self._file, indent=1) + '\n'
    if paths.in_bucket(self._path):  # Objects of a bucket appear whole.
      with disk.may_wait(self._path):
        self._path.write_text(text)
      return
    draft = self._path.with_name(FILE + '.tmp')
    draft.write_text(text)
    draft.replace(self._path)
