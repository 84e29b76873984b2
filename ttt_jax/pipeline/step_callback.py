"""Reports the steps of a compiled sampler to a function of the caller."""

from __future__ import annotations

from collections.abc import Callable, Generator
import contextlib

import jax

from ttt_jax.runtime import progress

# Called with the number of steps done, for example to advance a progress bar.
OnStep = Callable[[int], None]


class StepCallback:
  """A host callback for compiled samplers, whose target changes per call.

  The callback is part of the compiled program, so it is one object for all
  calls.
  """

  def __init__(self):
    self._target: OnStep | None = None

  def __call__(self, step: int) -> None:
    """Reports that `step`, counted from 0, is done."""
    if self._target is not None:
      self._target(step + 1)

  @contextlib.contextmanager
  def report_to(self, target: OnStep | None) -> Generator[None]:
    """Reports the steps inside the block to `target`."""
    self._target = target
    try:
      yield
    finally:
      jax.effects_barrier()
      self._target = None


def advance(bar: progress.Bar, on_step: OnStep | None = None) -> OnStep:
  """Returns a function that advances the bar and then calls `on_step`."""

  def report(step: int) -> None:
    bar.advance()
    if on_step is not None:
      on_step(step)

  return report
