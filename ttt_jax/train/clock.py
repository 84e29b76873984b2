"""How fast training is: seconds, tokens and operations of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import time
from typing import Any

import jax

from ttt_jax.models import flops as flops_lib


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
