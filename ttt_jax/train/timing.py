"""Throughput of training: seconds, tokens and FLOPs per step, and goodput."""

from __future__ import annotations

from collections.abc import Generator, Sequence
import contextlib
import dataclasses
import os
import time
from typing import Any

from etils import epath
import jax
import msgspec

from ttt_jax.runtime import chips
from ttt_jax.runtime import disk
from ttt_jax.runtime import files

GOODPUT_FILE = 'goodput.json'
_WRITE_INTERVAL = 10.0  # seconds between two writes of it


@dataclasses.dataclass(frozen=True)
class ClipCost:
  """Cost of training on one clip.

  Attributes:
    tokens: Tokens of its sequence.
    flops: Floating-point operations of the forward and backward pass.
  """

  tokens: int
  flops: float


class StepTimer:
  """Measures the steps between two rows of metrics.

  The loop reads the metrics of a step while the next one runs, so the time
  between two calls of `step` is the duration of a step. Until the second call
  the first step is compiled and run; that time is reported separately.
  """

  def __init__(self, cost: ClipCost, batch_size: int, devices: Sequence[Any]):
    """Starts the timer.

    Args:
      cost: Cost of each clip.
      batch_size: Clips per step.
      devices: Devices that share the step.
    """
    self._cost, self._batch_size = cost, batch_size
    self._devices = devices
    self._calls = 0
    self._first: float | None = None
    self._reset()

  def _reset(self) -> None:
    self._start = time.perf_counter()
    self._data = self._paused = 0.0
    self._steps = 0

  @contextlib.contextmanager
  def wait_for_data(self) -> Generator[None]:
    """Counts the time inside the block as waiting for a batch."""
    start = time.perf_counter()
    yield
    self._data += time.perf_counter() - start

  @contextlib.contextmanager
  def pause(self) -> Generator[None]:
    """Excludes the time inside the block: saving, diagnostics, sampling."""
    start = time.perf_counter()
    yield
    self._paused += time.perf_counter() - start

  def step(self) -> None:
    """Counts a step; called after its dispatch."""
    self._calls += 1
    self._steps += self._calls > 2
    if self._calls == 2:
      self._first = time.perf_counter() - self._start
      self._reset()

  def summary(self) -> dict[str, float]:
    """Returns metrics since the last call; in seconds, GiB and FLOP/s."""
    metrics = self._memory()
    if self._first is not None:
      metrics['time/first_step'], self._first = self._first, None
    if self._steps:
      busy = time.perf_counter() - self._start - self._paused
      seconds = busy / self._steps
      clips = self._batch_size / (seconds * len(self._devices))
      metrics |= {
        'time/step': seconds,
        'time/data_share': self._data / busy,
        'speed/tokens_per_second_per_chip': clips * self._cost.tokens,
        'speed/tflops_per_chip': clips * self._cost.flops / 1e12,
      }
      peak = chips.peak_flops(self._devices[0].device_kind)
      if peak is not None:
        metrics['speed/mfu'] = clips * self._cost.flops / peak
      self._reset()
    return metrics

  def _memory(self) -> dict[str, float]:
    """Memory of this process's fullest device; empty if not reported."""
    process = jax.process_index()
    stats = [
      d.memory_stats() for d in self._devices if d.process_index == process
    ]
    stats = [s for s in stats if s]
    names = dict(in_use='bytes_in_use', peak='peak_bytes_in_use')
    return {
      f'memory/{name}_gib': max(s[key] for s in stats) / 2**30
      for name, key in names.items()
      if stats and key in stats[0]
    }


def format_summary(metrics: dict[str, float]) -> str:
  """Formats a `StepTimer.summary` for a progress bar: '2.31 s per step'."""
  if 'time/step' not in metrics:
    return ''
  words = [f'{metrics["time/step"]:.3g} s per step']
  if 'speed/mfu' in metrics:
    words.append(f'MFU {metrics["speed/mfu"]:.1%}')
  if metrics['time/data_share'] > 0.05:
    words.append(f'{metrics["time/data_share"]:.0%} of it waiting for data')
  return ', '.join(words)


class _Totals(msgspec.Struct):
  """Content of the file; times in seconds since 1970."""

  began: float
  step: int
  starts: int = 0
  redone_steps: int = 0
  redone_seconds: float = 0.0
  down_seconds: float = 0.0
  time: float | None = None
  done: bool = False


class Goodput:
  """Adds up the time lost to restarts, over all starts of a stage.

  A start that resumes from step n loses the work of the previous start after
  n, and the time between its last step and the first new one. After a stage
  that reached its end nothing is lost.
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
      folder: Folder of the stage.
      step: Step from which this start resumes.
      saved: Time at which that step was saved, in seconds since 1970; None at
        the beginning of a stage.
      active: Whether this process writes the file; one process does.
    """
    self._path = epath.Path(folder) / GOODPUT_FILE
    self._active, self._written = active, 0.0
    self._step, self._saved, self._is_first = step, saved, True
    self._totals = _Totals(began=time.time(), step=step)
    if step:
      try:
        self._totals = msgspec.json.decode(
          self._path.read_bytes(), type=_Totals
        )
      except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        pass  # The file is missing or damaged.
    self._totals.starts += 1

  def finished(self, step: int) -> None:
    """Counts a step whose metrics are known to be finite."""
    now, totals = time.time(), self._totals
    if self._is_first:
      self._is_first = False
      # Steps of a start that got no further than this one are not lost.
      if totals.time and not totals.done:
        totals.redone_steps += max(0, totals.step - self._step)
        totals.redone_seconds += max(0.0, totals.time - (self._saved or 0))
        totals.down_seconds += max(0.0, now - totals.time)
    totals.step, totals.time, totals.done = step, now, False
    if now - self._written >= _WRITE_INTERVAL:
      self._write(now)

  def summary(self) -> dict[str, float]:
    """Returns metrics: the share of time that was not lost, and the losses."""
    totals = self._totals
    if not totals.time:
      return {}
    elapsed = max(totals.time - totals.began, 1e-9)
    lost = totals.redone_seconds + totals.down_seconds
    return {
      'goodput/share': max(0.0, 1 - lost / elapsed),
      'goodput/lost_seconds': lost,
      'goodput/redone_steps': totals.redone_steps,
      'goodput/starts': totals.starts,
    }

  def close(self, done: bool) -> None:
    """Writes the file; `done` if the stage reached its end."""
    self._totals.done = done
    self._write(time.time())

  def _write(self, now: float) -> None:
    self._written = now
    if self._active:
      with disk.tolerate_bucket_errors(self._path):
        files.write_json(msgspec.to_builtins(self._totals), self._path)
