"""Tests the judge on true videos that are degraded on purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import numpy as np
from rich import console as rich_console
from rich import table as rich_table

from examples.cartoon import degrade
from ttt_jax.evaluation import story_scores
from ttt_jax.runtime import progress

TRUE = 0.97  # least score of a true video on every axis
TOLERANCE = 0.03  # of the axes that must not become lower
LEAST = 0.03  # by which the greatest strength lowers an axis
STEP = 0.003  # by which every step of strength lowers it further


@dataclasses.dataclass(frozen=True)
class Row:
  """Axes of a video with one degradation.

  Attributes:
    degradation: Degradation.
    axes: Axes by the strength.
    problems: Problems of the axes.
  """

  degradation: degrade.Degradation
  axes: dict[float, dict[str, float]]
  problems: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Result:
  """Result of a self-test.

  Attributes:
    true: Axes of the true video.
    rows: Rows of the matrix.
    problems: Problems of all rows and of the true video.
  """

  true: dict[str, float]
  rows: tuple[Row, ...]
  problems: tuple[str, ...]


def run(
  clip: degrade.Clip,
  axes_of: Callable[[np.ndarray], dict[str, float]],
  degradations: Sequence[degrade.Degradation] = degrade.DEGRADATIONS,
  strengths: Sequence[float] = degrade.STRENGTHS,
) -> Result:
  """Judges a true clip and its degraded versions.

  Args:
    clip: Clip.
    axes_of: Judge: function of frames that returns the axes.
    degradations: Degradations.
    strengths: Their strengths.
  """
  true = axes_of(clip.frames)
  problems = [
    f'the true video has {true.get(axis, 0):.3f} on {axis}, expected {TRUE} or'
    ' more'
    for axis in story_scores.AXES
    if true.get(axis, 0) < TRUE
  ]
  rows = []
  jobs = [(d, s) for d in degradations for s in strengths]
  found: dict[str, dict[float, dict[str, float]]] = {}
  for degradation, strength in progress.track(jobs, 'judge'):
    axes = axes_of(degradation.apply(clip, strength))
    found.setdefault(degradation.name, {})[strength] = axes
  for degradation in degradations:
    axes = found[degradation.name]
    wrong = tuple(check(degradation, true, axes))
    rows.append(Row(degradation, axes, wrong))
    problems += wrong
  return Result(true, tuple(rows), tuple(problems))


def check(
  degradation: degrade.Degradation,
  true: Mapping[str, float],
  axes: Mapping[float, Mapping[str, float]],
) -> list[str]:
  """Returns the problems of the axes of a degradation."""
  problems = []
  name = degradation.name
  for axis in story_scores.AXES:
    values = [true[axis], *(axes[s][axis] for s in sorted(axes))]
    if axis in degradation.lowers:
      steps = [a - b for a, b in zip(values, values[1:])]
      if values[0] - values[-1] < LEAST or min(steps) < STEP:
        shown = ', '.join(f'{v:.3f}' for v in values)
        problems.append(f'{name} must lower {axis} more and more: {shown}')
    elif axis not in degradation.may:
      for strength, value in zip(sorted(axes), values[1:], strict=True):
        if abs(value - values[0]) > TOLERANCE:
          problems.append(
            f'{name} of strength {strength:.2f} changes {axis} from'
            f' {values[0]:.3f} to {value:.3f}'
          )
  return problems


def print_result(
  result: Result, console: rich_console.Console | None = None
) -> None:
  """Prints the matrix of degradations and axes."""
  console = console or rich_console.Console()
  table = rich_table.Table(
    title='the axes of a true video, and of degraded ones',
    caption=f'bold: must become lower; in brackets: may; others: within'
    f' {TOLERANCE}',
  )
  for column in ('degradation', 'strength', *story_scores.AXES, ''):
    table.add_column(column)
  table.add_row(
    'none', '', *(f'{result.true[a]:.3f}' for a in story_scores.AXES)
  )
  for row in result.rows:
    table.add_section()
    for i, (strength, axes) in enumerate(sorted(row.axes.items())):
      cells = []
      for axis in story_scores.AXES:
        text = f'{axes[axis]:.3f}'
        if axis in row.degradation.lowers:
          text = f'[bold]{text}[/]'
        elif axis in row.degradation.may:
          text = f'({text})'
        cells.append(text)
      tick = ''
      if not i:
        tick = '[red]✗[/]' if row.problems else '[green]✓[/]'
      name = '' if i else row.degradation.name
      table.add_row(name, f'{strength:.2f}', *cells, tick)
  console.print(table)
  for problem in result.problems:
    console.print(f'[red]✗[/] {problem}')
