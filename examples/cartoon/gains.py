"""Gains: how much less a frame differs from a drawn one with a character in it.

For every sprite and position the squared error of the best redrawn frame is
known from a few matrix products, the factors of the sprite times the products
of the frame, for all colours at once; see `sprites`.
"""

from __future__ import annotations

import numpy as np

from examples.cartoon import pen as pen_lib
from examples.cartoon import sprites
from examples.cartoon import story as story_lib
from examples.cartoon import words

COLOURS = (
  np.array([pen_lib.PALETTE[c] for c in words.COLOURS], np.float32) / 255
)
# A look has two colours.
_SAME = np.eye(len(COLOURS), dtype=bool)
_VISIBLE = 0.45  # share of the sprite that must not be hidden
_THERE = 0.2  # cover of the pixels of a sprite that are measured


def look_of(gains: np.ndarray) -> story_lib.Look:
  """Returns the look with the greatest gain."""
  shape, colour, other = np.unravel_index(gains.argmax(), gains.shape)
  species, accessory = sprites.SHAPES[int(shape)]
  return story_lib.Look(
    species, words.COLOURS[int(colour)], accessory, words.COLOURS[int(other)]
  )


def look_index(look: story_lib.Look) -> tuple[int, int, int]:
  """Returns the position of a look in `recognize.Figure.gains`."""
  return (
    sprites.SHAPES.index((look.species, look.accessory)),
    words.COLOURS.index(look.colour),
    words.COLOURS.index(look.accessory_colour),
  )


def factors(cover: np.ndarray, picture: np.ndarray) -> np.ndarray:
  """Returns the factors of sprites; times `products` they are the gains.

  Args:
    cover: Cover of each pixel by the sprite, 0 to 1, [n, h, w].
    picture: The sprite times its cover [n, h, w, 3].

  Returns:
    float32 [n, 9 h w].
  """
  found = np.stack(
    [
      -2 * cover,
      -cover * cover,
      *(2 * picture[..., c] for c in range(3)),
      *(2 * cover * picture[..., c] for c in range(3)),
      -np.square(picture).sum(-1),
    ],
    axis=1,
  )
  return found.reshape(len(found), -1).astype(np.float32)


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


def measure(
  maps: np.ndarray, corner: tuple[int, int], cover: np.ndarray
) -> tuple[float, float, int]:
  """Measures where a sprite is.

  Args:
    maps: Result of `products`.
    corner: Row and column of the sprite's upper left corner in the maps.
    cover: Cover of each pixel by the sprite, 0 to 1, [h, w].

  Returns:
    Squared difference from the backdrop, weight, and number of its pixels.
  """
  (r, c), (h, w) = corner, cover.shape
  inside = maps[:, r : r + h, c : c + w]
  is_in = cover > _THERE
  energy = np.square(inside[2:5]).sum(0)[is_in].sum()
  return float(energy), float(inside[8][is_in].sum()), int(is_in.sum())


def reduced(image: np.ndarray, divisor: int) -> np.ndarray:
  """Returns an image [h, w, ...] of smaller size."""
  if divisor == 1:
    return image
  # Strided views: numpy's mean over such short axes is several times slower.
  steps = range(divisor)
  total = sum(image[i::divisor, j::divisor] for i in steps for j in steps)
  return total / np.float32(divisor * divisor)


class Scores:
  """Computes the gains of a bank's sprites, [shapes, poses] flattened to n.

  Attributes:
    bank: Bank.
    size: Rows and columns of the canvas.
    poses: Number of poses.
    cover: float32 [n, pixels].
  """

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
    self._base = factors(
      bank.cover.reshape(n, h, w), bank.fixed.reshape(n, h, w, 3)
    )
    self._colour = np.stack([body, other], axis=1)
    self._covered = self._colour * cover[:, None]
    # [n, 2, 3, px]
    self._fixed = self._colour[:, :, None] * np.stack(fixed, axis=1)[:, None]
    self._squares = np.stack([body * body, body * other, other * other], axis=1)
    self.cover = cover

  def gains(
    self, rows: np.ndarray, maps: np.ndarray, corners: np.ndarray
  ) -> np.ndarray:
    """Returns the gains of sprites at positions in their best colours.

    Args:
      rows: Indices of the sprites [n].
      maps: Result of `products`.
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
    # All of them without a copy.
    chosen = slice(None) if n == len(self.cover) else rows
    base = self._base[chosen] @ (patches.transpose(1, 0, 2).reshape(p, -1).T)
    d, b = (patches[i : i + 3].reshape(3 * p, px).T for i in (2, 5))
    weight = patches[8].T
    linear = self._colour[chosen].reshape(2 * n, px) @ d
    linear += self._covered[chosen].reshape(2 * n, px) @ b
    fixed = self._fixed[chosen].reshape(6 * n, px) @ weight
    linear = linear.reshape(n, 2, 3, p) - fixed.reshape(n, 2, 3, p)
    squares = self._squares[chosen].reshape(3 * n, px) @ weight
    squares = squares.reshape(n, 3, p)
    by_colour = 2 * np.tensordot(COLOURS, linear, (1, 2))  # [colours, n, 2, p]
    norms = np.square(COLOURS).sum(1)[:, None, None]
    body = by_colour[:, :, 0] - norms * squares[:, 0]
    other = by_colour[:, :, 1] - norms * squares[:, 2]
    cover = self.cover[chosen]
    visible = cover @ weight >= _VISIBLE * cover.sum(1, keepdims=True)
    return base, body, other, squares[:, 1], visible
