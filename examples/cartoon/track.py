"""Follows characters whose looks are known through the frames of a segment."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import itertools

import numpy as np

from examples.cartoon import gains as gains_lib
from examples.cartoon import sprites
from examples.cartoon import story as story_lib

COUNT = len(sprites.STANCES)
_REACH = 0.14  # of the search around the expected position, in heights
_UP = 0.22  # characters jump
_BEHIND = 0.22  # between a character and one in front of it
# Usual mean square of the difference from the empty place, over all channels:
# losses of characters in front of their own colour are not overrated.
_USUAL = 0.15
_SEEN = 0.3  # least share of a character that is not hidden
_FAINT = 0.015  # least mean square of the difference
_FOUND = 0.35  # least share that a character explains where it is seen


@dataclasses.dataclass(frozen=True, eq=False)
class Track:
  """A character in some frames of a segment.

  Attributes:
    times: Times within the segment, 0 to 1, [m].
    visible: Whether it is seen, bool [m].
    hidden: Whether it is not seen where another character is, bool [m].
    x: Position in the place, in heights of the picture; of frames in which it
      is not seen, the expected one, [m].
    y: Row of the feet, [m].
    losses: For every stance and facing (left, right), the share of the
      difference from the empty place that it explains less than the best one,
      [m, stances, 2].
    offsets: Position x and y at which each of them fits best, relative to the
      best one's, [m, stances, 2, 2].
    cameras: Left edge of the picture, [m].
  """

  times: np.ndarray
  visible: np.ndarray
  hidden: np.ndarray
  x: np.ndarray
  y: np.ndarray
  losses: np.ndarray
  offsets: np.ndarray
  cameras: np.ndarray

  @property
  def facings(self) -> np.ndarray:
    """-1 left or 1 right in every frame, [m]."""
    return np.array(sprites.FACINGS)[self.losses.min(1).argmin(1)]


class _Sprites:
  """The sprites of one look on a bank's canvas, as factors of one product."""

  def __init__(self, bank: sprites.Bank, look: story_lib.Look):
    shape, colour, other = gains_lib.look_index(look)
    self.bank = bank
    self.size = bank.size
    cover = bank.cover[shape]
    picture = bank.fixed[shape] + (
      bank.body[shape][..., None] * gains_lib.COLOURS[colour]
      + bank.accessory[shape][..., None] * gains_lib.COLOURS[other]
    )
    self.cover, self.picture = cover, picture
    self.factors = gains_lib.factors(cover, picture)


class Follower:
  """Follows characters at one size.

  A character is found at half the size, if the frames are large enough, and its
  position and pose are then measured at full size.
  """

  def __init__(self, height: int, sigma: float = 0.0):
    """Prepares the sprites.

    Args:
      height: Pixel rows of the frames.
      sigma: Standard deviation of their blur in pixels.
    """
    self.height = height
    banks = [bank.blurred(sigma) for bank in sprites.banks(height)]
    # From coarse to fine: divisor of the size, sprites.
    self._levels = [(1, banks)]
    if height >= 48:
      self._levels.insert(0, (2, [bank.halved() for bank in banks]))
    self._of = functools.lru_cache(maxsize=32)(self._sprites)

  def _sprites(self, look: story_lib.Look) -> list[list[_Sprites]]:
    return [
      [_Sprites(bank, look) for bank in banks] for _, banks in self._levels
    ]

  def follow(
    self,
    frames: np.ndarray,
    backdrops: Sequence[np.ndarray],
    hidden_by: Sequence[np.ndarray],
    cameras: np.ndarray,
    times: np.ndarray,
    looks: Sequence[story_lib.Look],
    known: Sequence[dict[float, tuple[float, float]]],
  ) -> list[Track]:
    """Follows the characters of a segment.

    Args:
      frames: float32 [m, H, W, 3].
      backdrops: The same without characters.
      hidden_by: Cover of characters by objects in front of them, 0 to 1, one
        array [H, W] per frame.
      cameras: Left edges of the picture [m].
      times: Times within the segment [m].
      looks: Look of each character.
      known: Positions x (in the place) and y of each one at some times; at
        least one.
    """
    shape = len(looks), len(frames)
    visible = np.zeros(shape, bool)
    x, y = np.zeros(shape), np.zeros(shape)
    losses = np.zeros((*shape, COUNT, 2))
    offsets = np.zeros((*shape, COUNT, 2, 2))
    known = [dict(k) for k in known]
    # From the known times outwards.
    distance = [min(abs(t - u) for k in known for u in k) for t in times]
    for f in np.argsort(distance, kind='stable').tolist():
      t, camera = float(times[f]), float(cameras[f])
      for i, each in enumerate(known):
        x[i, f], y[i, f] = _expected(each, t)
      scene = frames[f], backdrops[f], 1 - hidden_by[f]
      # A second time with the others in the picture.
      found: dict[int, _Found] = {}
      for turn in range(2 if len(looks) > 1 else 1):
        for i, look in enumerate(looks):
          others = [v for k, v in found.items() if k != i]
          if turn and not others:
            continue
          at = x[i, f] - camera, y[i, f]
          result = self._locate(scene, others, look, at)
          found.pop(i, None)
          if result is not None:
            found[i] = result
      for i, result in found.items():
        visible[i, f] = True
        x[i, f], y[i, f] = known[i][t] = result.x + camera, result.y
        losses[i, f], offsets[i, f] = result.losses, result.offsets
    hidden = np.zeros(shape, bool)
    for i, j in itertools.permutations(range(len(looks)), 2):
      hidden[i] |= ~visible[i] & visible[j] & (np.abs(x[i] - x[j]) < _BEHIND)
    return [
      Track(
        times, visible[i], hidden[i], x[i], y[i], losses[i], offsets[i], cameras
      )
      for i in range(len(looks))
    ]

  def _locate(
    self,
    scene: tuple[np.ndarray, np.ndarray, np.ndarray],
    others: Sequence[_Found],
    look: story_lib.Look,
    at: tuple[float, float],
  ) -> _Found | None:
    """Finds one character near a position.

    Args:
      scene: Frame, the same without characters, and weights of its pixels.
      others: Other characters in the frame.
      look: Look of the character.
      at: Position x and y in the picture.
    """
    frame, drawn, weight = scene
    for other in sorted(others, key=lambda o: o.y):
      r, c, cover, picture = other.patch
      h, w = cover.shape
      drawn = drawn.copy()
      patch = drawn[r : r + h, c : c + w]
      patch[:] = (1 - cover)[..., None] * patch + picture
      if other.y > at[1]:
        weight = weight.copy()
        weight[r : r + h, c : c + w] *= 1 - cover
    # Characters jump.
    reach = (-_UP, _REACH / 2, -_REACH, _REACH)
    found = None
    for (divisor, _), each in zip(self._levels, self._of(look), strict=True):
      images = [gains_lib.reduced(x, divisor) for x in (frame, drawn, weight)]
      height = self.height // divisor
      pixels = tuple(round(x * height) for x in reach)
      found = _search(images, each, at, pixels)
      if found is None:
        return None
      at = found.x, found.y
      reach = (-1.0 / height, 1.0 / height, -1.0 / height, 1.0 / height)
    return found


def _search(
  images: Sequence[np.ndarray],
  banks: Sequence[_Sprites],
  at: tuple[float, float],
  reach: tuple[int, ...],
) -> _Found | None:
  """Finds the best pose and position of one look.

  Args:
    images: Frame, the same without the character, and weights of the pixels.
    banks: Sprites of the look.
    at: Position x and y that is near, in heights of the picture.
    reach: Pixels up (negative), down, to the left (negative) and right of it.
  """
  frame, drawn, weight = images
  height = len(frame)
  pad = height // 2
  maps = gains_lib.products(frame, drawn, weight, pad)
  row, column = at[1] * height, at[0] * height
  best: tuple | None = None
  gains = np.full((COUNT, 2), -np.inf)
  offsets = np.zeros((COUNT, 2, 2))
  for each in banks:
    h, w = each.size
    r = round(row) - each.bank.feet[0] + pad
    c = round(column) - each.bank.feet[1] + pad
    low, high = max(r + reach[0], 0), min(r + reach[1], maps.shape[1] - h)
    left, right = max(c + reach[2], 0), min(c + reach[3], maps.shape[2] - w)
    if low > high or left > right:
      continue
    region = maps[:, low : high + h, left : right + w]
    windows = np.lib.stride_tricks.sliding_window_view(region, (h, w), (1, 2))
    grid = windows.shape[1:3]
    windows = windows.transpose(1, 2, 0, 3, 4).reshape(grid[0] * grid[1], -1)
    values = each.factors @ windows.T  # [poses, positions]
    poses = np.array(each.bank.stances)
    facing = sprites.FACINGS.index(each.bank.facing)
    at_best = values.argmax(1)
    gains[poses, facing] = values[np.arange(len(poses)), at_best]
    offsets[poses, facing, 0] = left + at_best % grid[1] + each.bank.feet[1]
    offsets[poses, facing, 1] = low + at_best // grid[1] + each.bank.feet[0]
    pose, position = np.unravel_index(values.argmax(), values.shape)
    if best is None or values[pose, position] > best[0]:
      i, j = divmod(int(position), grid[1])
      best = (
        float(values[pose, position]),
        each,
        int(pose),
        (low + i, left + j),
        _peak(values[pose].reshape(grid), i, j),
      )
  if best is None or best[0] <= 0:
    return None
  gain, each, pose, (r, c), (dy, dx) = best
  h, w = each.size
  cover = each.cover[pose]
  energy, mass, pixels = gains_lib.measure(maps, (r, c), cover)
  seen = mass / max(pixels, 1)
  if seen < _SEEN or gain < _FOUND * energy or energy < _FAINT * mass:
    return None
  # The part of the canvas that is in the picture.
  top, start = max(0, pad - r), max(0, pad - c)
  bottom = min(h, pad + frame.shape[0] - r)
  end = min(w, pad + frame.shape[1] - c)
  inner = np.s_[top:bottom, start:end]
  return _Found(
    x=(c + dx - pad + each.bank.feet[1]) / height,
    y=(r + dy - pad + each.bank.feet[0]) / height,
    losses=(gain - gains) / max(energy, _USUAL * mass),
    offsets=(offsets - (c + each.bank.feet[1], r + each.bank.feet[0])) / height,
    patch=(
      r + top - pad,
      c + start - pad,
      cover[inner],
      each.picture[pose][inner],
    ),
  )


def _expected(
  known: dict[float, tuple[float, float]], t: float
) -> tuple[float, float]:
  """Returns a position on the ground between, or beyond, known ones."""
  times = sorted(known)
  xs, ys = zip(*(known[u] for u in times))
  x, y = float(np.interp(t, times, xs)), max(ys)
  ends = ((0, 1), (-1, -2))
  for a, b in ends if len(times) > 1 else ():
    beyond = t < times[0] if a == 0 else t > times[-1]
    if beyond and abs(times[a] - times[b]) < 0.2:
      slope = (xs[a] - xs[b]) / (times[a] - times[b])
      x += min(max(slope * (t - times[a]), -_REACH), _REACH)
  return x, y


@dataclasses.dataclass(frozen=True, eq=False)
class _Found:
  """A character in one frame, with its corner, cover and picture."""

  x: float
  y: float
  losses: np.ndarray
  offsets: np.ndarray
  patch: tuple[int, int, np.ndarray, np.ndarray]


def _peak(surface: np.ndarray, i: int, j: int) -> tuple[float, float]:
  """Returns the offset of a maximum from its pixel, by parabolas."""
  offsets = []
  for axis, k in ((0, i), (1, j)):
    line = surface[:, j] if axis == 0 else surface[i]
    if not 0 < k < len(line) - 1:
      offsets.append(0.0)
      continue
    a, b, c = line[k - 1 : k + 2]
    curvature = a - 2 * b + c
    offsets.append(float(0.5 * (a - c) / curvature) if curvature < 0 else 0.0)
  return offsets[0], offsets[1]
