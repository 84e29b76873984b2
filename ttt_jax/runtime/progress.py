"""Progress bars with the time left, one look for every long step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
  """A running bar; `advance` moves it, `note` shows a short text behind it.

  Where the output is no terminal (a log file, CI) it prints one line when
  it starts and one when it ends instead of redrawing.
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

  def advance(self, steps: int = 1, note: str | None = None) -> None:
    if note is not None:
      self._note = note
    self._bar.update(self._task, advance=steps, note=self._note)


def track(
  items: Iterable[T], description: str, total: int | None = None
) -> Iterator[T]:
  """Yields `items` behind a bar; `total` where they have no length."""
  total = len(items) if total is None else total  # type: ignore[arg-type]
  with Bar(description, total) as bar:
    for item in items:
      yield item
      bar.advance()
