"""What the loop watches for: signals, and losses that are not finite."""

from __future__ import annotations

from collections.abc import Sequence
import os
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from ttt_jax import distributed
from ttt_jax.train import clock as clock_lib
from ttt_jax.train import goodput as goodput_lib
from ttt_jax.train import metrics as metrics_lib


class Stop:
  """Turns SIGTERM and Ctrl-C into a wish that the loop reads.

  Of several processes any one may be asked: JAX' preemption service then
  agrees on the step after which all of them stop.
  """

  def __init__(self):
    self.signal: signal.Signals | None = None

  def __enter__(self) -> Stop:
    handlers = {signal.SIGTERM: self._note, signal.SIGINT: self._note}
    if distributed.several():
      # JAX itself listens to SIGTERM.
      handlers = {signal.SIGINT: self._terminate}
    self._before = {s: signal.signal(s, f) for s, f in handlers.items()}
    return self

  def __exit__(self, *_) -> None:
    for s, handler in self._before.items():
      signal.signal(s, handler)

  def after(self, step: int) -> bool:
    """Whether to stop after this step; every process asks at every step."""
    # False where this process is alone.
    if multihost_utils.reached_preemption_sync_point(step):
      self.signal = signal.SIGTERM
    return self.signal is not None

  def _note(self, number, _) -> None:
    self.signal = signal.Signals(number)

  def _terminate(self, *_) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Monitor:
  """Reads metrics one step late, so that the device never waits for us."""

  def __init__(
    self,
    writer: metrics_lib.Writer,
    clock: clock_lib.Clock,
    goodput: goodput_lib.Goodput,
    names: Sequence[str],
    config: Any,
  ):
    """`names`: of clips; `config` says `log_every` and the last of `steps`."""
    self._writer, self._clock, self._goodput = writer, clock, goodput
    self._names = names
    self._log_every, self._steps = config.log_every, config.steps
    self._speed = ''
    self._window, self._pending = metrics_lib.Window(), None
    self._extra: dict[str, float] = {}
    self.note = ''

  def extra(self, values: dict[str, float]) -> None:
    """Adds values to the next row: that of the step pushed last, or later."""
    self._extra |= values

  def push(self, step: int, metrics: Any, clips: np.ndarray) -> None:
    """Takes the metrics of `step` and looks at those of the step before."""
    pending, self._pending = self._pending, (step, metrics, clips)
    self._look(pending)

  def flush(self) -> None:
    """Looks at everything pushed so far."""
    pending, self._pending = self._pending, None
    self._look(pending)

  def _look(self, pending: tuple[int, Any, np.ndarray] | None) -> None:
    if pending is None:
      return
    step, metrics, clips = pending
    metrics = jax.device_get(metrics)
    bad = [k for k in ('loss', 'grad_norm') if not np.isfinite(metrics[k])]
    if bad:
      names = ', '.join(sorted({self._names[i] for i in clips}))
      raise ValueError(
        f'{bad[0]} is {metrics[bad[0]]} in step {step}, batch of clips'
        f' {names}; nothing of it was saved. A smaller'
        ' config.optimizer learning rate or clip, or without these clips'
      )
    self._window.add(metrics)
    self._goodput.finished(step)
    if step % self._log_every == 0 or step == self._steps:
      speed = self._clock.row()
      self._speed = clock_lib.note(speed) or self._speed
      row = self._window.drain() | self._extra | speed | self._goodput.row()
      self._writer.write(step, row)
      self._extra = {}
    self.note = f'loss {metrics["loss"]:.4f} {self._speed}'.rstrip()
