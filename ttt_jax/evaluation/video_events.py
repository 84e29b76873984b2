"""Cuts, flicker, repeated frames and stretches, and jumps at borders.

All functions take reduced frames, see `frame_features.reduce`, and compare them
in levels of 255.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ttt_jax.evaluation import frame_features

# A frame repeats another if no pixel of its luma differs by more.
_SAME = 3
_FROZEN_SECONDS = 0.5
# A cut is a change of so many levels, and so many times what is usual.
_CUT_LEVELS = 8.0
_CUT_FACTOR = 5.0
_CUT_WINDOW = 0.5  # Seconds before and after.
_REPEAT_RMS = 1.0
_REPEAT_SECONDS = 1.0
_REPEAT_FPS = 8
_MOST_FRAMES = 2400  # That are compared with each other.


def changes(small: np.ndarray) -> np.ndarray:
  """Returns the mean change of luma and chroma to the next frame [F - 1]."""
  return np.array(
    [np.abs(b.astype(np.int16) - a).mean() for a, b in zip(small, small[1:])]
  )


def repeats_previous(small: np.ndarray) -> np.ndarray:
  """Returns whether a frame repeats the previous one, bool [F - 1]."""
  return np.array(
    [_is_same(a, b) for a, b in zip(small[..., 0], small[1:, ..., 0])]
  )


def find_cuts(change: np.ndarray, times: np.ndarray) -> np.ndarray:
  """Finds changes that are cuts, not motion.

  Args:
    change: Changes to the next frame [F - 1].
    times: Times of the frames in seconds [F].

  Returns:
    bool [F - 1]: the change is at least 8 levels, and at least 5 times the
    median of the others within half a second.
  """
  found = np.zeros(len(change), bool)
  for k in np.flatnonzero(change >= _CUT_LEVELS):
    near = np.abs(times[1:] - times[k + 1]) <= _CUT_WINDOW + 1e-6
    near[k] = False
    usual = np.median(change[near]) if near.any() else 0.0
    found[k] = change[k] >= _CUT_FACTOR * usual
  return found


def flicker(
  small: np.ndarray, cuts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Measures how far brightness is off the mean of the two frames around.

  Args:
    small: Reduced frames [F, 64, 96, 3].
    cuts: Whether the change to the next frame is a cut [F - 1].

  Returns:
    Levels of the complete frame, and the mean over 8x8 blocks [F]; NaN for the
    first and the last frame, and next to a cut.
  """
  whole, local = np.full((2, len(small)), np.nan)
  blocks = np.stack(
    [frame_features.block_means(x[..., 0].astype(np.float32)) for x in small]
  )
  off = blocks[1:-1] - (blocks[:-2] + blocks[2:]) / 2
  whole[1:-1] = np.abs(off.mean((1, 2)))
  local[1:-1] = np.abs(off).mean((1, 2))
  is_near = np.append(cuts, False) | np.append(False, cuts)
  whole[is_near] = local[is_near] = np.nan
  return whole, local


def frozen_stretches(
  small: np.ndarray, times: np.ndarray, end: float
) -> list[dict[str, float]]:
  """Finds stretches of half a second or more that repeat their first frame.

  Args:
    small: Reduced frames [F, 64, 96, 3].
    times: Times of the frames in seconds [F].
    end: Time at which the last frame ends.
  """
  luma = small[..., 0]
  found = []
  first = 0
  for k in range(1, len(luma) + 1):
    if k < len(luma) and _is_same(luma[first], luma[k]):
      continue
    seconds = (times[k] if k < len(luma) else end) - times[first]
    if k - first > 1 and seconds >= _FROZEN_SECONDS - 1e-6:
      found.append(dict(start=float(times[first]), seconds=float(seconds)))
    first = k
  return found


def repeated_stretches(
  small: np.ndarray, times: np.ndarray
) -> list[dict[str, float]]:
  """Finds stretches of a second or more that were shown before.

  Eight frames per second are compared, at most 2400 of the video. Stretches
  without motion do not count, see `frozen_stretches`.

  Returns:
    'start', 'seconds', and the start of the first showing, 'from', in the order
    of their starts; without overlaps.
  """
  period = max(1 / _REPEAT_FPS, float(times[-1] - times[0]) / _MOST_FRAMES)
  grid = np.arange(times[0], times[-1] + 1e-6, period)
  after = np.clip(np.searchsorted(times, grid - 1e-6), 0, len(times) - 1)
  chosen = np.stack(
    [
      frame_features.block_means(x.astype(np.float32), 16, 16).ravel()
      for x in small[after]
    ]
  )
  chosen -= chosen.mean(0)
  size = chosen.shape[1]
  squares = np.square(chosen).sum(1)
  distance = squares[:, None] + squares - 2 * chosen @ chosen.T
  is_same = distance <= size * _REPEAT_RMS**2
  moves = np.append(~np.diagonal(is_same, 1), False)
  least = max(2, int(np.ceil(_REPEAT_SECONDS / period)))
  runs = []
  for lag in range(least, len(chosen) - least + 1):
    equal = np.diagonal(is_same, lag)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], equal, [0]])))
    for a, b in edges.reshape(-1, 2):
      # Half of the stretch moves.
      if b - a >= least and 2 * moves[a:b].sum() >= b - a:
        runs.append((int(b - a), int(a + lag), int(a)))
  taken = np.zeros(len(chosen), bool)
  found = []
  # The longest stretches, and of equal ones the earliest first showing.
  for length, start, origin in sorted(runs, key=lambda r: (-r[0], r[1:])):
    if not taken[start : start + length].any():
      taken[start : start + length] = True
      found.append(
        {
          'start': float(grid[start]),
          'seconds': float(length * period),
          'from': float(grid[origin]),
        }
      )
  return sorted(found, key=lambda s: s['start'])


def borders(
  change: np.ndarray,
  times: np.ndarray,
  starts: Iterable[float],
  cuts: np.ndarray,
) -> list[dict[str, Any]]:
  """Compares the changes at the borders of segments with all others.

  A change is the largest of three consecutive ones, because a border may lie
  a frame earlier or later.

  Args:
    change: Changes to the next frame [F - 1].
    times: Times of the frames in seconds [F].
    starts: Times at which segments start, without the first.
    cuts: Whether the change to the next frame is a cut [F - 1].

  Returns:
    For every border its 'time', 'change', 'rank', the share of the other
    changes that are smaller (equal ones count half), and whether it is a 'cut'.
  """
  padded = np.pad(change, 1, mode='edge')
  largest = np.max([padded[:-2], padded[1:-1], padded[2:]], axis=0)
  starts = [float(start) for start in starts]
  where = [int(np.argmin(np.abs(times[1:] - start))) for start in starts]
  others = np.ones(len(change), bool)
  for k in where:
    others[max(0, k - 2) : k + 3] = False
  rest = np.sort(largest[others])
  found = []
  for start, k in zip(starts, where):
    rank = None
    if len(rest):
      below = np.searchsorted(rest, largest[k])
      upto = np.searchsorted(rest, largest[k], 'right')
      rank = float((below + upto) / 2 / len(rest))
    found.append(
      dict(
        time=start,
        change=float(largest[k]),
        rank=rank,
        cut=bool(cuts[max(0, k - 1) : k + 2].any()),
      )
    )
  return found


def _is_same(a: np.ndarray, b: np.ndarray) -> bool:
  return bool(np.abs(a.astype(np.int16) - b).max() <= _SAME)
