"""Reads the files of a stage: metrics, config and checkpoints.

The trainer writes them while it runs, so a stage can be read at any moment, and
also after a kill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any
import warnings

from etils import epath
import numpy as np

from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.runtime import files
from ttt_jax.train import metrics
from ttt_jax.train import timing

_MOST_STEPS = 10**12  # A larger number is damage.


@dataclasses.dataclass(frozen=True)
class Stage:
  """The recorded state of one stage.

  Attributes:
    folder: Folder of the stage.
    rows: Rows of its metrics.
    unread: Number of lines of the metrics from the first damaged one on.
    config: Config of the newest checkpoint; {} if there is none.
    saved: Steps of the checkpoints, newest first.
    is_done: Whether the stage reached its end; None if that is not recorded.
  """

  folder: epath.Path
  rows: Sequence[Mapping[str, Any]]
  unread: int
  config: Mapping[str, Any]
  saved: Sequence[int]
  is_done: bool | None

  @property
  def steps(self) -> int | None:
    """Number of steps of the config, if it is known."""
    steps = self.config.get('steps')
    return steps if isinstance(steps, int) and steps > 0 else None

  @property
  def step(self) -> int:
    """Last step that is recorded."""
    return max([row['step'] for row in self.rows[-1:]] + [*self.saved[:1], 0])

  def series(self, name: str) -> np.ndarray:
    """Returns steps and values [n, 2] of a metric."""
    found = [
      (row['step'], number(row[name]))
      for row in self.rows
      if isinstance(row.get(name), int | float)
    ]
    return np.asarray(found, np.float64).reshape(-1, 2)

  def last(self, name: str) -> float | None:
    """Returns the last value of a metric."""
    points = self.series(name)
    return float(points[-1, 1]) if len(points) else None

  def names(self, pattern: str) -> list[str]:
    """Returns the metrics whose names match, in order of appearance."""
    names = dict.fromkeys(name for row in self.rows for name in row)
    return [name for name in names if re.fullmatch(pattern, name)]


def number(value: Any) -> float:
  """Returns a JSON number as a float; NaN for other values."""
  try:
    return float(value) if isinstance(value, int | float) else np.nan
  except OverflowError:
    return np.nan


def is_stage(folder: epath.Path) -> bool:
  """Returns whether a folder has the files of a stage."""
  return (folder / metrics.LOG).exists() or (
    folder / checkpoint_format.FOLDER
  ).exists()


def find(folder: epath.Path) -> list[epath.Path]:
  """Returns the stages of a run: the folder, or folders in it, oldest first."""
  if is_stage(folder):
    return [folder]
  return sorted(
    (p for p in folder.iterdir() if p.is_dir() and is_stage(p)),
    key=lambda p: (_began(p), p.name),
  )


def _began(stage: epath.Path) -> float:
  rows = metrics.read(stage)
  began = number(rows[0].get('time')) if rows else np.nan
  return began if np.isfinite(began) else np.inf


def read(folder: epath.Path) -> Stage:
  """Reads a stage; damaged files count as missing."""
  rows = [r for r in metrics.read(folder) if abs(r['step']) < _MOST_STEPS]
  lines = 0
  if (folder / metrics.LOG).exists():
    lines = len((folder / metrics.LOG).read_bytes().splitlines())
  saved = checkpoint_format.steps(folder)
  config = {}
  if saved:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      try:
        config = checkpoint_format.newest_meta(folder)['config']
      except ValueError:
        pass
  is_done = None
  try:
    totals = files.parse_json((folder / timing.GOODPUT_FILE).read_text(), '')
    is_done = totals.get('done') if isinstance(totals, dict) else None
  except (OSError, ValueError):
    pass
  return Stage(folder, rows, lines - len(rows), config, saved, is_done)
