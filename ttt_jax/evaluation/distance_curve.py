"""Similarity of frames against their distance in time.

The mean similarity of consecutive frames cannot distinguish a video that stays
the same from one that drifts slowly into another. The curve can: it is flat at
1 for a frozen video, falls with the distance for one that drifts, and is low
and flat for shuffled frames.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

SECONDS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 60)
_MIN_OVERLAP = 0.5  # Seconds of frames that have a partner.


@dataclasses.dataclass(frozen=True)
class Curve:
  """Mean similarity at some distances.

  Attributes:
    seconds: Distances.
    similarity: Mean cosine of two frames at each distance.
    pairs: Number of pairs of frames at each distance.
  """

  seconds: tuple[float, ...]
  similarity: tuple[float, ...]
  pairs: tuple[int, ...]

  def at(self, seconds: float) -> float | None:
    """Returns the similarity at a distance, None if it was not measured."""
    return dict(zip(self.seconds, self.similarity)).get(seconds)

  def far(self, duration: float) -> float | None:
    """Returns the mean over distances of a third of the duration and more."""
    values = [
      v
      for s, v in zip(self.seconds, self.similarity)
      if s >= max(1, duration / 3)
    ]
    return float(np.mean(values)) if values else None


def measure(
  vectors: np.ndarray,
  times: np.ndarray,
  groups: np.ndarray | None = None,
  is_other: bool = False,
  seconds: Sequence[float] = SECONDS,
) -> Curve:
  """Measures the curve of a video.

  A distance is left out if less than half a second of frames have a partner.

  Args:
    vectors: Unit vectors of frames in their order [F, J].
    times: Their times in seconds [F].
    groups: Labels [F]; only pairs of equal labels count. None counts all.
    is_other: Whether only pairs of different labels count instead.
    seconds: Distances.
  """
  times = np.asarray(times, np.float64)
  spacing = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
  found = []
  for distance in seconds:
    if not spacing:
      continue
    want = times + distance
    after = np.clip(np.searchsorted(times, want), 1, len(times) - 1)
    nearer = want - times[after - 1] < times[after] - want
    partner = after - nearer
    # A frame stands for half its duration, before and after.
    is_pair = np.abs(times[partner] - want) <= 0.51 * spacing
    is_pair &= partner > np.arange(len(times))
    if groups is not None:
      is_pair &= (groups[partner] == groups) != is_other
    first = np.flatnonzero(is_pair)
    if len(first) * spacing >= _MIN_OVERLAP:
      cosines = np.einsum('ij,ij->i', vectors[first], vectors[partner[first]])
      found.append((float(distance), float(cosines.mean()), len(first)))
  return Curve(*map(tuple, zip(*found))) if found else Curve((), (), ())


def mean(curves: Sequence[Curve]) -> Curve:
  """Returns the mean of the curves of several videos.

  At every distance it has the mean over the videos that are long enough.
  """
  found = []
  for distance in sorted({s for c in curves for s in c.seconds}):
    there = [(c.at(distance), c) for c in curves]
    values = [v for v, _ in there if v is not None]
    pairs = sum(
      c.pairs[c.seconds.index(distance)] for v, c in there if v is not None
    )
    found.append((distance, float(np.mean(values)), pairs))
  return Curve(*map(tuple, zip(*found))) if found else Curve((), (), ())
