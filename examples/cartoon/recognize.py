"""Recognizes the characters of a frame by drawing them.

For every sprite and position the squared error of the best redrawn frame is
known from a few matrix products, for all colours at once, see `sprites`. The
search goes from coarse to fine: where the frame differs from the empty place,
which poses fit there, and which of all looks fit best.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from examples.cartoon import pen as pen_lib
from examples.cartoon import sprites
from examples.cartoon import words
from examples.cartoon import world

COLOURS = (
  np.array([pen_lib.PALETTE[c] for c in words.COLOURS], np.float32) / 255
)
_COUNT = len(words.COLOURS)
# A look has two colours.
_SAME = np.eye(_COUNT, dtype=bool)

# A character is there if it explains this share of what differs from the
# empty place, if that is not faint, and if little remains.
_EXPLAINED = 0.5
_RESIDUAL = 0.2
_ENERGY = 0.015  # mean square of the difference, sum over the three channels
_DENSE = 0.04  # the same in a box of a character's size, to look for one
_VISIBLE = 0.45  # share of the sprite that must not be hidden


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
  def look(self) -> world.Look:
    return look_of(self.gains)

  @property
  def is_clear(self) -> bool:
    """Returns whether a character can be recognized at all."""
    return self.explained >= _EXPLAINED and self.residual <= _RESIDUAL


def look_of(gains: np.ndarray) -> world.Look:
  """Returns the look with the greatest gain."""
  shape, colour, other = np.unravel_index(gains.argmax(), gains.shape)
  species, accessory = sprites.SHAPES[int(shape)]
  return world.Look(
    species, words.COLOURS[int(colour)], accessory, words.COLOURS[int(other)]
  )


def look_index(look: world.Look) -> tuple[int, int, int]:
  """Returns the position of a look in `Figure.gains`."""
  return (
    sprites.SHAPES.index((look.species, look.accessory)),
    words.COLOURS.index(look.colour),
    words.COLOURS.index(look.accessory_colour),
  )


class _Scores:
  """Gains of the sprites of a bank, [shapes, poses] flattened to n."""

  def __init__(self, bank: sprites.Bank):
    self.bank = bank
    shapes, poses, h, w = bank.cover.shape
    self.size = h, w
    self.poses = poses
    n, px = shapes * poses, h * w

    def flat(x: np.ndarray) -> np.ndarray:
      return np.ascontiguousarray(x.reshape(n, px))

    cover, body, other = (
      flat(x) for x in (bank.cover, bank.body, bank.accessory)
    )
    fixed = [flat(bank.fixed[..., c]) for c in range(3)]
    # Factors of sum(w D B), sum(w B B), w D, w B and w.
    self._base = np.stack(
      [
        -2 * cover,
        -cover * cover,
        *(2 * f for f in fixed),
        *(2 * cover * f for f in fixed),
        -sum(f * f for f in fixed),
      ],
      axis=1,
    ).astype(np.float32)
    self._colour = np.stack([body, other], axis=1)
    self._covered = self._colour * cover[:, None]
    # [n, 2, 3, px]
    self._fixed = self._colour[:, :, None] * np.stack(fixed, axis=1)[:, None]
    self._squares = np.stack([body * body, body * other, other * other], axis=1)
    self.cover = cover

  def gains(
    self, rows: np.ndarray, maps: np.ndarray, corners: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the gains of sprites at positions in their best colours.

    Args:
      rows: Indices of the sprites [n].
      maps: Of `products`.
      corners: Row and column of the upper left corner in the maps [p, 2].

    Returns:
      Gains [n, p]; -inf where too little of a sprite is visible.
    """
    base, body, other, _, visible = self._terms(rows, maps, corners)
    # The masks of body and accessory hardly overlap.
    out = base + body.max(0) + other.max(0)
    out[~visible] = -np.inf
    return out

  def tables(
    self, rows: np.ndarray, maps: np.ndarray, corners: np.ndarray
  ) -> np.ndarray:
    """Returns the same for all colours, [n, p, colours, colours]."""
    base, body, other, overlap, visible = self._terms(rows, maps, corners)
    body, other = (np.moveaxis(x, 0, -1) for x in (body, other))
    out = (base[:, :, None] + body)[..., None] + other[:, :, None, :]
    out -= 2 * overlap[:, :, None, None] * (COLOURS @ COLOURS.T)
    out[..., _SAME] = -np.inf
    out[~visible] = -np.inf
    return out

  def _terms(
    self, rows: np.ndarray, maps: np.ndarray, corners: np.ndarray
  ) -> tuple[np.ndarray, ...]:
    """Returns the terms of gains.

    Returns:
      Gain without the colours [n, p]; additional gain of every colour of the
      body, and of the accessory, [colours, n, p]; sum of the product of their
      masks [n, p]; whether enough is visible, bool [n, p].
    """
    h, w = self.size
    n, p, px = len(rows), len(corners), h * w
    windows = np.lib.stride_tricks.sliding_window_view(maps, (h, w), (1, 2))
    patches = windows[:, corners[:, 0], corners[:, 1]].reshape(9, p, px)
    if n == len(self.cover):
      rows = np.s_[:]  # Without a copy.
    base = self._base[rows].reshape(n, -1) @ (
      patches.transpose(1, 0, 2).reshape(p, -1).T
    )
    d, b = (patches[i : i + 3].reshape(3 * p, px).T for i in (2, 5))
    weight = patches[8].T
    linear = self._colour[rows].reshape(2 * n, px) @ d
    linear += self._covered[rows].reshape(2 * n, px) @ b
    fixed = self._fixed[rows].reshape(6 * n, px) @ weight
    linear = linear.reshape(n, 2, 3, p) - fixed.reshape(n, 2, 3, p)
    squares = self._squares[rows].reshape(3 * n, px) @ weight
    squares = squares.reshape(n, 3, p)
    by_colour = 2 * np.tensordot(COLOURS, linear, (1, 2))  # [colours, n, 2, p]
    norms = np.square(COLOURS).sum(1)[:, None, None]
    body = by_colour[:, :, 0] - norms * squares[:, 0]
    other = by_colour[:, :, 1] - norms * squares[:, 2]
    cover = self.cover[rows]
    visible = cover @ weight >= _VISIBLE * cover.sum(1, keepdims=True)
    return base, body, other, squares[:, 1], visible


def products(
  frame: np.ndarray, backdrop: np.ndarray, weight: np.ndarray, pad: int
) -> np.ndarray:
  """Returns the products of a frame that gains are made of.

  Args:
    frame: float32 [H, W, 3].
    backdrop: The same without a character.
    weight: Weights of the pixels [H, W].
    pad: Pixels of weight 0 that are added on all sides.

  Returns:
    float32 [9, H + 2 pad, W + 2 pad]: with the difference D from the backdrop
    B and the weight w, the sums over channels of w D B and of w B B, w D and w
    B of the channels, and w.
  """
  difference = frame - backdrop
  h, w = weight.shape
  out = np.zeros((9, h + 2 * pad, w + 2 * pad), np.float32)
  inner = out[:, pad : pad + h, pad : pad + w]
  inner[2:5] = np.moveaxis(weight[..., None] * difference, -1, 0)
  inner[5:8] = np.moveaxis(weight[..., None] * backdrop, -1, 0)
  inner[0] = (inner[2:5] * np.moveaxis(backdrop, -1, 0)).sum(0)
  inner[1] = (inner[5:8] * np.moveaxis(backdrop, -1, 0)).sum(0)
  inner[8] = weight
  return out


def _half(x: np.ndarray) -> np.ndarray:
  h, w = x.shape[:2]
  return x.reshape(h // 2, 2, w // 2, 2, *x.shape[2:]).mean((1, 3))


# Poses by which a character is found.
_FIRST = ('stand', 'air', 'lie', 'run')


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
    self.width = round(height * world.ASPECT)
    banks = [bank.blurred(sigma) for bank in sprites.banks(height)]
    self._fine = [_Scores(bank) for bank in banks]
    # At half the size, if something is left then.
    self._factor = 2 if height >= 48 else 1
    coarse = [bank.halved() for bank in banks] if self._factor == 2 else banks
    self._coarse = [_Scores(bank) for bank in coarse]
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
      hidden: Where objects are in front of characters [H, W], 0 to 1.
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
        figure = self._refine(frame, backdrop, hidden, others, [found[i]])
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
      # Whoever stands nearer hides the one that is looked for.
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
    small = [frame, drawn, weight]
    k = self._factor
    if k == 2:
      small = [_half(x) for x in small]
    frame_c, drawn_c, weight_c = small
    energy = weight_c * np.square(frame_c - drawn_c).sum(-1)
    row, column, strength = _densest(energy, self.height // k)
    if strength < _DENSE:
      return None
    pad = self._pad // k
    maps = products(frame_c, drawn_c, weight_c, pad)
    reach_y, reach_x = (round(r * self.height / k) for r in (0.15, 0.14))
    step = max(1, self.height // k // 32)
    best: list[tuple[float, int, int, int, int]] = []
    for number, scores in enumerate(self._coarse):
      chosen = [
        i
        for i, s in enumerate(scores.bank.stances)
        if sprites.STANCES[s].name in _FIRST
      ]
      rows = _rows(scores, chosen)
      corners = _corners(
        (row, column),
        scores.size,
        (reach_y, reach_x),
        (pad, pad, *maps.shape[1:]),
        step,
      )
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
      mine = [b for b in best if b[1] == number][:1]
      for gain, _, _, r, c in mine:
        if gain < 0.6 * best[0][0]:
          continue
        corners = _around(r, c, 1, scores.size, maps.shape[1:])
        rows = np.arange(len(scores.cover))
        gains = scores.gains(rows, maps, corners)
        by_pose = gains.reshape(-1, scores.poses, len(corners)).max((0, 2))
        for pose in np.argsort(-by_pose)[:3]:
          at = gains[pose :: scores.poses].max(0).argmax()
          r1, c1 = corners[at]
          starts.append(
            (float(by_pose[pose]), number, int(pose), int(r1), int(c1))
          )
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
    figures: Sequence[Figure],
  ) -> Figure | None:
    """Fits a character again."""
    (figure,) = figures
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
    maps = products(frame, drawn, weight, pad)
    best = None
    table = np.full((len(sprites.SHAPES), _COUNT, _COUNT), -np.inf, np.float32)
    for number, pose, r, c in starts:
      scores = self._fine[number]
      corners = _around(r + pad, c + pad, 2, scores.size, maps.shape[1:])
      if not len(corners):
        continue
      rows = np.arange(len(sprites.SHAPES)) * scores.poses + pose
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
      + bank.body[shape, pose][..., None] * COLOURS[colour]
      + bank.accessory[shape, pose][..., None] * COLOURS[other]
    )
    h, w = scores.size
    window = np.s_[r : r + h, c : c + w]
    inside = maps[:, r : r + h, c : c + w]
    is_in = cover > 0.2
    energy = float(np.square(inside[2:5]).sum(0)[is_in].sum())
    mass = float(inside[8][is_in].sum())
    if energy < _ENERGY * mass:
      return None
    colours, masses = _measure(
      inside[8],
      np.moveaxis(inside[2:5] + cover * inside[5:8], 0, -1),
      bank.fixed[shape, pose],
      (bank.body[shape, pose], bank.accessory[shape, pose]),
    )
    whole = [
      np.zeros((self.height + 2 * pad, self.width + 2 * pad, *x.shape[2:]), 'f')
      for x in (cover, picture)
    ]
    whole[0][window] = cover
    whole[1][window] = picture
    inner = np.s_[pad:-pad, pad:-pad]
    cover, picture = whole[0][inner], whole[1][inner]
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
      cover=cover,
      picture=picture,
    )


def _measure(
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


def _rows(scores: _Scores, poses: Sequence[int]) -> np.ndarray:
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


def _corners(
  middle: tuple[float, float],
  size: tuple[int, int],
  reach: tuple[int, int],
  maps: tuple[int, int, int, int],
  step: int,
) -> np.ndarray:
  """Returns corners of canvases around a middle, in padded coordinates."""
  pad_r, pad_c, rows, columns = maps
  r = round(middle[0] - size[0] / 2) + pad_r
  c = round(middle[1] - size[1] / 2) + pad_c
  rs = np.arange(r - reach[0], r + reach[0] + 1, step)
  cs = np.arange(c - reach[1], c + reach[1] + 1, step)
  rs = rs[(rs >= 0) & (rs + size[0] <= rows)]
  cs = cs[(cs >= 0) & (cs + size[1] <= columns)]
  return np.stack(np.meshgrid(rs, cs, indexing='ij'), -1).reshape(-1, 2)


def _around(
  r: int, c: int, reach: int, size: tuple[int, int], shape: tuple[int, ...]
) -> np.ndarray:
  rs = np.arange(r - reach, r + reach + 1)
  cs = np.arange(c - reach, c + reach + 1)
  rs = rs[(rs >= 0) & (rs + size[0] <= shape[0])]
  cs = cs[(cs >= 0) & (cs + size[1] <= shape[1])]
  return np.stack(np.meshgrid(rs, cs, indexing='ij'), -1).reshape(-1, 2)
