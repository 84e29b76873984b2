"""A static permutation, stored as runs of rows that stay neighbours."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Run:
  """Rows that are consecutive in source and result.

  Attributes:
    start: first row of the run in the source.
    length: number of rows, at least 1.
    step: 1, or -1 where the source is read backwards.
  """

  start: int
  length: int
  step: int


@dataclasses.dataclass(frozen=True)
class Permutation:
  """A mapping from rows of the result to rows of the source.

  Hashable, so that it can be a static argument of a compiled program.

  Attributes:
    runs: runs in the order of the result; together they contain each row once.
  """

  runs: tuple[Run, ...]

  @classmethod
  def from_index(cls, index: np.ndarray) -> Permutation:
    """Returns the permutation result[i] = source[index[i]].

    Args:
      index: [T] integers, each of 0 ... T - 1 once.

    Raises:
      ValueError: `index` is not a permutation.
    """
    index = np.asarray(index)
    if index.ndim != 1 or not np.array_equal(
      np.sort(index), np.arange(index.size)
    ):
      raise ValueError(
        f'index of shape {index.shape} is not a permutation: it must contain'
        f' each of 0 ... {index.size - 1} once'
      )
    runs = []
    first = 0
    while first < index.size:
      steps = np.diff(index[first:])
      step = -1 if steps.size and steps[0] == -1 else 1
      breaks = np.flatnonzero(steps != step)
      length = breaks[0] + 1 if breaks.size else index.size - first
      runs.append(Run(int(index[first]), int(length), step))
      first += length
    return cls(tuple(runs))

  @property
  def length(self) -> int:
    """Number of rows T."""
    return sum(run.length for run in self.runs)

  @functools.cached_property
  def index(self) -> np.ndarray:
    """Row of the source for each row of the result, [T]."""
    return np.concatenate(
      [run.start + run.step * np.arange(run.length) for run in self.runs]
    )

  @functools.cached_property
  def inverse(self) -> Permutation:
    """The inverse permutation."""
    return Permutation.from_index(np.argsort(self.index))
