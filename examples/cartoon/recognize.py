"""Recognizes the characters of a frame by drawing them.

The search goes from coarse to fine: where the frame differs from the empty
place, which poses fit there, and which of all looks fit best.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from examples.cartoon import gains as gains_lib
from examples.cartoon import sprites
from examples.cartoon import story as story_lib

# A character is there if it explains this share of the difference from the
# empty place, if that is not faint, and if little remains.
_EXPLAINED = 0.5
_RESIDUAL = 0.2
_ENERGY = 0.015  # mean square of the difference, sum over the three channels
_DENSE = 0.04  # the same in a box of a character's size, to look for one
# Poses by which a character is found.
_FIRST = ('stand', 'air', 'lie', 'run')


@dataclasses.dataclass(frozen=True, eq=False)
class Figure:
  """A character in a frame.

  Attributes:
    gains: Reduction of the squared error by every look, float32 [shapes,
      colours, colours of the accessory]; -inf for two equal colours.
    x: Column of the feet, in heights of the picture from its left edge.
    y: Row of the feet, in heights of the picture.
    stance: Index in `sprites.STANCES`.
    facing: -1 left, 1 right.
    explained: Share of the difference from the empty place that is explained.
    residual: Mean square of what is not, sum over the channels.
    colours: Measured colours of the body and the accessory, [2, 3].
    masses: Pixels that they were measured on, [2].
    cover: float32 [H, W], where the sprite is.
    picture: float32 [H, W, 3], the sprite times its cover.
  """

  gains: np.ndarray
  x: float
  y: float
  stance: int
  facing: int
  explained: float
  residual: float
  colours: np.ndarray
  masses: np.ndarray
  cover: np.ndarray
  picture: np.ndarray

  @property
  def look(self) -> story_lib.Look:
    return gains_lib.look_of(self.gains)

  @property
  def is_clear(self) -> bool:
    """Returns whether a character can be recognized at all."""
    return self.explained >= _EXPLAINED and self.residual <= _RESIDUAL


class Recognizer:
  """Recognizes characters at one size.

  Attributes:
    height: Pixel rows of a frame.
  """

  def __init__(self, height: int, sigma: float = 0.0):
    """Draws all sprites.

    Args:
      height: Pixel rows, even.
      sigma: Standard deviation of the frames' blur in pixels.
    """
    self.height = height
    banks = [bank.blurred(sigma) for bank in sprites.banks(height)]
    self._fine = [gains_lib.Scores(bank) for bank in banks]
    # At half the size, if something is left then.
    self._factor = 2 if height >= 48 else 1
    coarse = [bank.halved() for bank in banks] if self._factor == 2 else banks
    self._coarse = [gains_lib.Scores(bank) for bank in coarse]
    self._pad = height // 2

  def figures(
    self,
    frame: np.ndarray,
    backdrop: np.ndarray,
    hidden: np.ndarray,
    most: int = 2,
  ) -> list[Figure]:
    """Finds the characters of a frame.

    Args:
      frame: float32 [H, W, 3], 0 to 1.
      backdrop: The same frame without characters.
      hidden: Cover of characters by objects in front of them [H, W], 0 to 1.
      most: Largest number of characters.

    Returns:
      The characters, the most visible one first.
    """
    found: list[Figure] = []
    while len(found) < most:
      figure = self._find(frame, backdrop, hidden, found)
      if figure is None:
        break
      found.append(figure)
    if len(found) > 1:
      # Again, each with the others in the picture.
      for i in range(len(found)):
        others = found[:i] + found[i + 1 :]
        figure = self._refine(frame, backdrop, hidden, others, found[i])
        if figure is not None:
          found[i] = figure
    return found

  def _scene(
    self,
    backdrop: np.ndarray,
    hidden: np.ndarray,
    others: Sequence[Figure],
    y: float | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the backdrop with other characters, and the pixels' weights."""
    weight = 1 - hidden
    for other in sorted(others, key=lambda f: f.y):
      backdrop = (1 - other.cover)[..., None] * backdrop + other.picture
      # A nearer character hides the one that is searched.
      if y is None or other.y > y:
        weight = weight * (1 - other.cover)
    return backdrop, weight

  def _find(
    self,
    frame: np.ndarray,
    backdrop: np.ndarray,
    hidden: np.ndarray,
    others: Sequence[Figure],
  ) -> Figure | None:
    drawn, weight = self._scene(backdrop, hidden, others)
    k = self._factor
    frame_c, drawn_c, weight_c = (
      gains_lib.reduced(x, k) for x in (frame, drawn, weight)
    )
    energy = weight_c * np.square(frame_c - drawn_c).sum(-1)
    row, column, strength = _densest(energy, self.height // k)
    if strength < _DENSE:
      return None
    pad = self._pad // k
    maps = gains_lib.products(frame_c, drawn_c, weight_c, pad)
    reach = round(0.15 * self.height / k), round(0.14 * self.height / k)
    step = max(1, self.height // k // 32)
    best: list[tuple[float, int, int, int, int]] = []
    for number, scores in enumerate(self._coarse):
      chosen = [
        i
        for i, s in enumerate(scores.bank.stances)
        if sprites.STANCES[s].name in _FIRST
      ]
      rows = _rows(scores, chosen)
      corner = (
        round(row - scores.size[0] / 2) + pad,
        round(column - scores.size[1] / 2) + pad,
      )
      corners = _around(corner, reach, scores.size, maps.shape[1:], step)
      if not len(corners):
        continue
      gains = scores.gains(rows, maps, corners)
      for at in np.argsort(-gains, axis=None)[:4]:
        i, j = np.unravel_index(at, gains.shape)
        r, c = corners[j]
        best.append((float(gains[i, j]), number, int(rows[i]), int(r), int(c)))
    best.sort(reverse=True)
    if not best or best[0][0] <= 0:
      return None
    # All poses around the best position of each kind of pose.
    starts = []
    for number, scores in enumerate(self._coarse):
      mine = [b for b in best if b[1] == number and b[0] >= 0.6 * best[0][0]]
      if not mine:
        continue
      corners = _around(mine[0][3:], (1, 1), scores.size, maps.shape[1:])
      gains = scores.gains(np.arange(len(scores.cover)), maps, corners)
      by_pose = gains.reshape(-1, scores.poses, len(corners)).max((0, 2))
      for pose in np.argsort(-by_pose)[:3]:
        r, c = corners[gains[pose :: scores.poses].max(0).argmax()]
        starts.append((float(by_pose[pose]), number, int(pose), int(r), int(c)))
    starts.sort(reverse=True)
    return self._finish(
      frame,
      drawn,
      weight,
      [
        (number, pose, (r - pad) * k, (c - pad) * k)
        for _, number, pose, r, c in starts[:4]
      ],
    )

  def _refine(
    self,
    frame: np.ndarray,
    backdrop: np.ndarray,
    hidden: np.ndarray,
    others: Sequence[Figure],
    figure: Figure,
  ) -> Figure | None:
    """Fits a character again."""
    drawn, weight = self._scene(backdrop, hidden, others, figure.y)
    starts = []
    for number, scores in enumerate(self._fine):
      bank = scores.bank
      if figure.stance not in bank.stances or bank.facing != figure.facing:
        continue
      pose = bank.stances.index(figure.stance)
      r = round(figure.y * self.height) - bank.feet[0]
      c = round(figure.x * self.height) - bank.feet[1]
      starts.append((number, pose, r, c))
    return self._finish(frame, drawn, weight, starts)

  def _finish(
    self,
    frame: np.ndarray,
    drawn: np.ndarray,
    weight: np.ndarray,
    starts: Sequence[tuple[int, int, int, int]],
  ) -> Figure | None:
    """Tries all looks at full size.

    Args:
      frame: Frame.
      drawn: Frame without the character.
      weight: Weights of the pixels.
      starts: (bank, pose, row, column of the corner) to begin with.
    """
    pad = self._pad
    maps = gains_lib.products(frame, drawn, weight, pad)
    best = None
    count = len(gains_lib.COLOURS)
    table = np.full((len(sprites.SHAPES), count, count), -np.inf, np.float32)
    for number, pose, r, c in starts:
      scores = self._fine[number]
      corner = r + pad, c + pad
      corners = _around(corner, (2, 2), scores.size, maps.shape[1:])
      if not len(corners):
        continue
      rows = _rows(scores, [pose])
      gains = scores.tables(rows, maps, corners)
      table = np.maximum(table, gains.max(1))
      at = np.unravel_index(gains.argmax(), gains.shape)
      gain = float(gains[at])
      if best is None or gain > best[0]:
        best = gain, number, int(rows[at[0]]), corners[at[1]], at[2], at[3]
    if best is None or best[0] <= 0:
      return None
    gain, number, row, (r, c), colour, other = best
    scores = self._fine[number]
    bank = scores.bank
    shape, pose = divmod(row, scores.poses)
    cover = bank.cover[shape, pose]
    picture = (
      bank.fixed[shape, pose]
      + bank.body[shape, pose][..., None] * gains_lib.COLOURS[colour]
      + bank.accessory[shape, pose][..., None] * gains_lib.COLOURS[other]
    )
    h, w = scores.size
    inside = maps[:, r : r + h, c : c + w]
    energy, mass, _ = gains_lib.measure(maps, (r, c), cover)
    if energy < _ENERGY * mass:
      return None
    colours, masses = _fit_colours(
      inside[8],
      np.moveaxis(inside[2:5] + cover * inside[5:8], 0, -1),
      bank.fixed[shape, pose],
      (bank.body[shape, pose], bank.accessory[shape, pose]),
    )
    placed = np.zeros((*maps.shape[1:], 4), np.float32)
    placed[r : r + h, c : c + w] = np.concatenate(
      [cover[..., None], picture], axis=-1
    )
    placed = placed[pad:-pad, pad:-pad]
    return Figure(
      gains=table,
      x=(int(c) - pad + bank.feet[1]) / self.height,
      y=(int(r) - pad + bank.feet[0]) / self.height,
      stance=bank.stances[pose],
      facing=bank.facing,
      explained=gain / max(energy, 1e-9),
      residual=max(energy - gain, 0.0) / max(mass, 1e-9),
      colours=colours,
      masses=masses,
      cover=placed[..., 0],
      picture=placed[..., 1:],
    )


def _fit_colours(
  weight: np.ndarray,
  rest: np.ndarray,
  fixed: np.ndarray,
  masks: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the colours of body and accessory by least squares, and masses.

  Args:
    weight: Weights of the pixels [h, w].
    rest: Weighted frame minus the part of the backdrop that is seen, [h, w, 3].
    fixed: Fixed part of the sprite [h, w, 3].
    masks: Masks of body and accessory [h, w].
  """
  rest = rest - weight[..., None] * fixed
  design = np.stack([m.ravel() for m in masks], axis=1)
  weighted = design * weight.reshape(-1, 1)
  matrix = weighted.T @ design + 1e-3 * np.eye(2)
  colours = np.linalg.solve(matrix, design.T @ rest.reshape(-1, 3))
  return colours, weighted.sum(0)


def _rows(scores: gains_lib.Scores, poses: Sequence[int]) -> np.ndarray:
  shapes = np.arange(len(sprites.SHAPES))
  return (shapes[:, None] * scores.poses + np.array(poses, int)).ravel()


def _densest(energy: np.ndarray, height: int) -> tuple[float, float, float]:
  """Returns the middle of the box with the most energy, and its mean."""
  h, w = round(0.36 * height), round(0.26 * height)
  total = np.pad(energy, ((h, h), (w, w))).cumsum(0).cumsum(1)
  total = np.pad(total, ((1, 0), (1, 0)))
  boxes = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
  row, column = np.unravel_index(boxes.argmax(), boxes.shape)
  mean = boxes[row, column] / (h * w)
  return float(row - h / 2), float(column - w / 2), float(mean)


def _around(
  corner: tuple[int, int],
  reach: tuple[int, int],
  size: tuple[int, int],
  shape: tuple[int, ...],
  step: int = 1,
) -> np.ndarray:
  """Returns the corners [p, 2] near one at which a canvas is in the maps."""
  found = []
  for at, far, length, limit in zip(corner, reach, size, shape, strict=True):
    each = np.arange(at - far, at + far + 1, step)
    found.append(each[(each >= 0) & (each + length <= limit)])
  return np.stack(np.meshgrid(*found, indexing='ij'), -1).reshape(-1, 2)
