"""Signals that end a run early, agreed on by all its processes."""

from __future__ import annotations

import os
import signal

from jax.experimental import multihost_utils

from ttt_jax.runtime import distributed


class PreemptionHandler:
  """Records SIGTERM and Ctrl-C in a flag that the loop checks at every step.

  In a run of several processes any one of them may receive the signal. JAX's
  preemption service then agrees on the step after which all of them stop.
  """

  def __init__(self):
    self.signal: signal.Signals | None = None

  def __enter__(self) -> PreemptionHandler:
    handlers = {signal.SIGTERM: self._record, signal.SIGINT: self._record}
    if distributed.is_multiprocess():
      # JAX handles SIGTERM itself.
      handlers = {signal.SIGINT: self._terminate}
    self._previous = {s: signal.signal(s, f) for s, f in handlers.items()}
    return self

  def __exit__(self, *_) -> None:
    for s, handler in self._previous.items():
      signal.signal(s, handler)

  def should_stop(self, step: int) -> bool:
    """Returns whether to stop after this step; all processes must call it."""
    # False in a run of one process.
    if multihost_utils.reached_preemption_sync_point(step):
      self.signal = signal.SIGTERM
    return self.signal is not None

  def _record(self, number, _) -> None:
    self.signal = signal.Signals(number)

  def _terminate(self, *_) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
