"""Progress bars with the remaining time, the same for every long step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import datetime
import threading
import time
from typing import TypeVar

from rich import console
from rich import progress

T = TypeVar('T')

_INTERVAL = 30.0  # seconds between two lines of a log
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

  If the output is not a terminal (a log file, a notebook, CI), it prints a line
  at the start, every 30 seconds and at the end instead of redrawing.
  """

  def __init__(
    self, description: str, total: int, completed: int = 0, note: str = ''
  ):
    """Creates the bar.

    Args:
      description: Name of the work.
      total: Number of steps.
      completed: Steps that were done before.
      note: Text after the bar until the first `advance`.
    """
    self._console = console.Console()
    self._description, self._note = description, note
    self._total, self._completed = total, completed
    self._bar = progress.Progress(
      *_COLUMNS, console=self._console, disable=not self._console.is_terminal
    )
    self._task = self._bar.add_task(
      description, total=total, completed=completed, note=note
    )
    self._first: tuple[float, int] | None = None
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._report, daemon=True)

  def __enter__(self) -> Bar:
    if not self._console.is_terminal:
      self.say(f'{self._description} ...')
      self._thread.start()
    self._bar.start()
    return self

  def __exit__(self, exc_type, exc, trace) -> None:
    self._ended.set()
    self._bar.stop()
    if not self._console.is_terminal and exc_type is None:
      self.say(self._line())

  def advance(self, note: str = '') -> None:
    """Moves the bar by one step; `note` becomes the text after it."""
    self._note, self._completed = note, self._completed + 1
    self._first = self._first or (time.monotonic(), self._completed)
    self._bar.update(self._task, advance=1, note=note)

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    self._console.print(text, markup=False, highlight=False, soft_wrap=True)

  def _report(self) -> None:
    while not self._ended.wait(_INTERVAL):
      self.say(self._line() + self._time_left())

  def _line(self) -> str:
    text = f'{self._description}: {self._completed}/{self._total} {self._note}'
    return text.rstrip()

  def _time_left(self) -> str:
    """Returns the time left, by the steps after the first, which compiles."""
    if self._first is None or self._completed == self._first[1]:
      return ''
    start, completed = self._first
    step = (time.monotonic() - start) / (self._completed - completed)
    left = int(step * (self._total - self._completed))
    return f', {datetime.timedelta(seconds=left)} left'


def track(items: Sequence[T], description: str) -> Iterator[T]:
  """Yields `items` and shows a bar."""
  with Bar(description, len(items)) as bar:
    for item in items:
      yield item
      bar.advance()
