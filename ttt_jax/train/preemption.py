"""Signals that end a run early, agreed on by all its processes."""

from __future__ import annotations

import os
import signal

from jax.experimental import multihost_utils

from ttt_jax.runtime import distributed


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
