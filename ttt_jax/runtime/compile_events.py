"""Reports the beginning and the end of compilations of XLA."""

from __future__ import annotations

from collections.abc import Callable, Generator
import contextlib
import re

from jax import monitoring

_EVENT = '/jax/core/compile/backend_compile_duration'


@contextlib.contextmanager
def report_to(
  began: Callable[[str], None], ended: Callable[[str, float], None]
) -> Generator[None]:
  """Reports the compilations inside the block.

  A program that is read from the cache of compiled programs counts, too.

  Args:
    began: Called with the name of a program.
    ended: Called with the name and the seconds that it took.
  """

  def on_begin(event: str, value: float | int, **context: str | int) -> None:
    if event == _EVENT:
      began(_name(context))

  def on_end(event: str, duration_secs: float, **context: str | int) -> None:
    if event == _EVENT:
      ended(_name(context), duration_secs)

  monitoring.register_scalar_listener(on_begin)
  monitoring.register_event_duration_secs_listener(on_end)
  try:
    yield
  finally:
    monitoring.unregister_scalar_listener(on_begin)
    monitoring.unregister_event_duration_listener(on_end)


def _name(context: dict[str, str | int]) -> str:
  """Returns 'train step' for the program jit(_train_step)."""
  words = re.sub(r'^jit\((.*)\)$', r'\1', str(context.get('fun_name', '')))
  words = words.replace('_', ' ').strip()
  return words if words and words[0].isalnum() else 'a program'
