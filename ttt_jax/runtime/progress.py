"""Progress bars with the remaining time, the same for every long step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich import console
from rich import progress

T = TypeVar('T')

_COLUMNS = (
  progress.TextColumn('{task.description:<28}'),
  progress.BarColumn(bar_width=24),
  progress.MofNCompleteColumn(),
  progress.TimeElapsedColumn(),
  progress.TextColumn('left'),
  progress.TimeRemainingColumn(),
  progress.TextColumn('{task.fields[note]}'),
)


class Bar:
  """A progress bar; `advance` moves it and sets the short text after it.

  If the output is not a terminal (a log file, CI), it prints one line at the
  start and one at the end instead of redrawing.
  """

  def __init__(self, description: str, total: int, completed: int = 0):
    self._console = console.Console()
    self._description = description
    self._note = ''
    self._bar = progress.Progress(
      *_COLUMNS, console=self._console, disable=not self._console.is_terminal
    )
    self._task = self._bar.add_task(
      description, total=total, completed=completed, note=''
    )

  def __enter__(self) -> Bar:
    if not self._console.is_terminal:
      self._console.print(f'{self._description} ...')
    self._bar.start()
    return self

  def __exit__(self, exc_type, exc, trace) -> None:
    self._bar.stop()
    if not self._console.is_terminal and exc_type is None:
      task = self._bar.tasks[0]
      self._console.print(
        f'{self._description}: {task.completed:.0f}/{task.total:.0f}'
        f' {self._note}'.rstrip()
      )

  def advance(self, note: str | None = None) -> None:
    """Moves the bar by one step; `note` replaces the text after it."""
    if note is not None:
      self._note = note
    self._bar.update(self._task, advance=1, note=self._note)


def track(items: Sequence[T], description: str) -> Iterator[T]:
  """Yields `items` and shows a bar."""
  with Bar(description, len(items)) as bar:
    for item in items:
      yield item
      bar.advance()
