"""Progress bars with the remaining time, the same for every long step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import datetime
import html
import threading
import time
from typing import Any, TypeVar

from rich import console
from rich import progress

from ttt_jax.runtime import compile_events

T = TypeVar('T')

_INTERVAL = 30.0  # seconds between two lines of a log
_TICK = 0.5  # seconds between two looks at the clock
_LONG = 2.0  # Seconds from which a compilation is worth a line.
_COLUMNS = (
  progress.TextColumn('{task.description:<16}'),
  progress.BarColumn(bar_width=24),
  progress.MofNCompleteColumn(),
  progress.TimeElapsedColumn(),
  progress.TextColumn('left'),
  progress.TimeRemainingColumn(),
  progress.TextColumn('{task.fields[note]}'),
)
# Bars that are shown. One inside another one is silent.
_shown: list[Bar] = []


class Bar:
  """A progress bar; `advance` moves it and sets the short text after it.

  A notebook shows the bar in its cell. If the output is neither a terminal nor
  a notebook (a log file, CI), it prints a line at the start, every 30 seconds
  and at the end instead of redrawing. Compilations of two seconds or more get
  lines of their own, with their duration. A bar inside another one is silent.
  """

  def __init__(
    self,
    description: str,
    total: int | None,
    completed: int = 0,
    note: str = '',
    is_shown: bool = True,
  ):
    """Creates the bar.

    Args:
      description: Name of the work.
      total: Number of steps; None for work that has none, which gets no line
        if it ends within two seconds.
      completed: Steps that were done before.
      note: Text after the bar until the first `advance`.
      is_shown: Whether anything is shown at all.
    """
    self._console = console.Console()
    self._description, self._note = description, note
    self._total, self._completed = total, completed
    self._first: tuple[float, int] | None = None
    self._compiling: tuple[str, float] | None = None
    self._announced = ''
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._stack = contextlib.ExitStack()
    self._is_shown = is_shown
    self._bar: progress.Progress | None = None
    self._cell: Any = None  # Handle of the display in a notebook.

  def __enter__(self) -> Bar:
    self._start = time.monotonic()
    self._is_shown &= not _shown
    if not self._is_shown:
      return self
    _shown.append(self)
    self._stack.callback(_shown.remove, self)
    self._stack.enter_context(
      compile_events.report_to(self._on_compile, self._on_compiled)
    )
    if self._console.is_jupyter:
      from IPython import display

      self._cell = display.display(display.HTML(self._html()), display_id=True)
    elif self._console.is_terminal:
      self._bar = progress.Progress(
        *_COLUMNS, console=self._console, transient=self._total is None
      )
      self._task = self._bar.add_task(
        self._description,
        total=self._total,
        completed=self._completed,
        note=self._note,
      )
      self._stack.enter_context(self._bar)
    elif self._total is not None:
      self.say(f'{self._description} ...')
    self._thread.start()
    return self

  def __exit__(self, exc_type, exc, trace) -> None:
    if not self._is_shown:
      return
    self._ended.set()
    self._thread.join()
    self._stack.close()
    if self._cell is not None:
      self._redraw_cell(is_over=exc_type is None)
    elif self._bar is None and exc_type is None:
      if self._total is not None or self._elapsed() > _LONG:
        self.say(self._line())

  def advance(self, note: str = '') -> None:
    """Moves the bar by one step; `note` becomes the text after it."""
    self._note, self._completed = note, self._completed + 1
    self._first = self._first or (time.monotonic(), self._completed)
    if self._bar is not None:
      self._bar.update(self._task, advance=1, note=note + self._speed())

  def note(self, text: str) -> None:
    """Sets the text after the bar."""
    self._note = text
    if self._bar is not None:
      self._bar.update(self._task, note=text)

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    self._console.print(text, markup=False, highlight=False, soft_wrap=True)

  def _watch(self) -> None:
    """Prints lines and redraws until the bar ends; a thread of its own."""
    said = self._start
    while not self._ended.wait(min(_TICK, _INTERVAL)):
      now = time.monotonic()
      if self._cell is not None:
        self._redraw_cell()
        continue
      compiling = self._compiling
      if compiling and now - compiling[1] > _LONG and not self._announced:
        self._announced = compiling[0]
        self.say(f'compiling {compiling[0]} ...')
      is_late = self._total is None and said == self._start
      if self._bar is None and now - said >= (_LONG if is_late else _INTERVAL):
        said = now
        self.say(
          f'{self._description} ...'
          if is_late
          else self._line() + self._time_left()
        )

  def _on_compile(self, name: str) -> None:
    self._compiling, self._announced = (name, time.monotonic()), ''

  def _on_compiled(self, name: str, seconds: float) -> None:
    self._compiling = None
    if seconds >= _LONG:
      self.say(f'compiled {name} in {seconds:.1f} s')

  def _elapsed(self) -> float:
    return time.monotonic() - self._start

  def _line(self) -> str:
    if self._total is None:
      return f'{self._description}: {self._elapsed():.1f} s'
    text = f'{self._description}: {self._completed}/{self._total} {self._note}'
    text = text.rstrip() + self._speed()
    if compiling := self._compiling:
      seconds = int(time.monotonic() - compiling[1])
      text += f', compiling {compiling[0]}, {seconds} s so far'
    return text

  def _step_seconds(self) -> float | None:
    """Returns seconds per step, without the first, which may compile."""
    if self._first is None or self._completed == self._first[1]:
      return None
    start, completed = self._first
    return (time.monotonic() - start) / (self._completed - completed)

  def _speed(self) -> str:
    step = self._step_seconds()
    if step is None or 'per step' in self._note:
      return ''
    return f', {step:.2g} s per step'

  def _time_left(self) -> str:
    step = self._step_seconds()
    if step is None or self._total is None:
      return ''
    left = int(step * (self._total - self._completed))
    return f', {datetime.timedelta(seconds=left)} left'

  def _html(self, is_over: bool = False) -> str:
    text = self._line()
    if not is_over:
      text += self._time_left()
    elif self._total is not None:
      text += f', took {self._elapsed():.1f} s'
    place = ''
    if self._total is not None:
      place = f'value="{self._completed}" max="{self._total}"'
    elif is_over:
      place = 'value="1"'
    return f'<progress {place}></progress> {html.escape(text)}'

  def _redraw_cell(self, is_over: bool = False) -> None:
    from IPython import display

    self._cell.update(display.HTML(self._html(is_over)))


def track(items: Sequence[T], description: str) -> Iterator[T]:
  """Yields `items` and shows a bar."""
  with Bar(description, len(items)) as bar:
    for item in items:
      yield item
      bar.advance()
