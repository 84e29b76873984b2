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
    """Raises the error if there are problems; its message ends in `end`.

    What all of them end in, such as an advice, occurs once.
    """
    if not self.found[1:]:
      if self.found:
        raise self._error(self.found[0] + end)
      return
    heads, marks, advices = zip(*(f.rpartition('; ') for f in self.found))
    if all(marks) and len({*advices}) == 1:
      found, end = heads, f'; {advices[0]}{end}'
    else:
      found = self.found
    count = f'{len(found)} {self._title}: '
    raise self._error(count + files.first_ten(found, '; ') + end)
