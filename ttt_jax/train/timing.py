"""How fast training is: seconds, tokens and operations of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import json
import os
import time
from typing import Any

from etils import epath
import jax

from ttt_jax.models import flops as flops_lib
from ttt_jax.runtime import disk
from ttt_jax.runtime import paths


@dataclasses.dataclass(frozen=True)
class Work:
  """What one clip asks of a network.

  Attributes:
    tokens: of its sequence.
    flops: of its forward and backward pass.
  """

  tokens: int
  flops: float


class Clock:
  """Measures the loop between two rows of metrics.

  The loop reads a step's metrics while the next one runs, so what passes
  between two calls of `step` is what a step takes. Before the second call the
  first step was compiled and run: that is told by itself.
  """

  def __init__(self, work: Work, batch_size: int, devices: Sequence[Any]):
    """`work` of each of `batch_size` clips, on all `devices`."""
    self._work, self._batch_size = work, batch_size
    self._devices = devices
    self._calls = 0
    self._first: float | None = None
    self._begin()

  def _begin(self) -> None:
    self._start = time.perf_counter()
    self._data = self._paused = 0.0
    self._steps = 0

  @contextlib.contextmanager
  def data(self) -> Iterator[None]:
    """Around waiting for a batch."""
    start = time.perf_counter()
    yield
    self._data += time.perf_counter() - start

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Around what is no step: saving, diagnosing, sampling."""
    start = time.perf_counter()
    yield
    self._paused += time.perf_counter() - start

  def step(self) -> None:
    """Behind each step that was begun."""
    self._calls += 1
    self._steps += self._calls > 2
    if self._calls == 2:
      self._first = time.perf_counter() - self._start
      self._begin()

  def row(self) -> dict[str, float]:
    """Metrics since the last call; seconds, GiB, operations a second."""
    found = self._memory()
    if self._first is not None:
      found['time/first_step'], self._first = self._first, None
    if self._steps:
      busy = time.perf_counter() - self._start - self._paused
      seconds = busy / self._steps
      chips = len(self._devices)
      clips = self._batch_size / (seconds * chips)
      found |= {
        'time/step': seconds,
        'time/data_share': self._data / busy,
        'speed/tokens_per_second_per_chip': clips * self._work.tokens,
        'speed/tflops_per_chip': clips * self._work.flops / 1e12,
      }
      peak = flops_lib.peak(self._devices[0])
      if peak is not None:
        found['speed/mfu'] = clips * self._work.flops / peak
      self._begin()
    return found

  def _memory(self) -> dict[str, float]:
    """Of this process's fullest device; nothing where none is told."""
    here = jax.process_index()
    stats = [d.memory_stats() for d in self._devices if d.process_index == here]
    stats = [s for s in stats if s]
    names = dict(in_use='bytes_in_use', peak='peak_bytes_in_use')
    return {
      f'memory/{name}_gib': max(s[key] for s in stats) / 2**30
      for name, key in names.items()
      if stats and key in stats[0]
    }


def note(row: dict[str, float]) -> str:
  """A row in words, for a progress bar: '2.31 s a step, MFU 41 %'."""
  if 'time/step' not in row:
    return ''
  words = [f'{row["time/step"]:.3g} s a step']
  if 'speed/mfu' in row:
    words.append(f'MFU {row["speed/mfu"]:.1%}')
  if row['time/data_share'] > 0.05:
    words.append(f'{row["time/data_share"]:.0%} of it waiting for data')
  return ', '.join(words)


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
