"""One error of one line for the problems of many items."""

from __future__ import annotations

from typing import Any

from ttt_jax.runtime import files


class Problems:
  """Collects the errors of blocks, to raise one for all of them.

  problems = Problems('entries are not valid')
  for item in items:
    with problems:
      parse(item)
  problems.check()
  """

  def __init__(self, title: str, error: type[Exception] = ValueError):
    """Starts without a problem.

    Args:
      title: End of '12 ...', which begins the message of several problems.
      error: Type of the error that `check` raises.
    """
    self._title, self._error = title, error
    self.found: list[str] = []

  def __enter__(self) -> None:
    pass

  def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
    if not isinstance(error, ValueError | FileNotFoundError):
      return False
    self.found.append(str(error))
    return True

  def check(self, end: str = '') -> None:
    """Raises the error if there are problems; its message ends in `end`."""
    if self.found:
      count = f'{len(self.found)} {self._title}: ' if self.found[1:] else ''
      raise self._error(count + files.first_ten(self.found, '; ') + end)
