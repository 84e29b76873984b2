"""A pen that draws outlined shapes with Pillow, in relative units."""

from __future__ import annotations

from collections.abc import Sequence
import functools
import math
from typing import Self

import numpy as np
from PIL import ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

WHITE: Colour = (255, 255, 255)
INK: Colour = (38, 32, 44)
PALETTE: dict[str, Colour] = {
  'red': (222, 56, 50),
  'blue': (52, 104, 220),
  'yellow': (252, 208, 48),
  'green': (62, 166, 74),
  'purple': (150, 76, 190),
  'white': (250, 250, 246),
}
# Materials of scenery and props.
WOOD: Colour = (150, 104, 66)
DARK_WOOD: Colour = (112, 76, 52)
LEAF: Colour = (92, 160, 84)
GOLD: Colour = (255, 214, 64)
THIN = 0.7  # outlines of the scenery
_LINE = 0.0135  # width of an outline, as a share of the picture's height


def mix(a: Colour, b: Colour, share: float) -> Colour:
  """Returns `a` with a share of `b`."""
  red, green, blue = (
    round(x + (y - x) * share) for x, y in zip(a, b, strict=True)
  )
  return red, green, blue


@functools.cache
def _circle(count: int) -> np.ndarray:
  angles = 2 * np.pi * np.arange(count) / count
  return np.stack([np.cos(angles), np.sin(angles)], axis=1)


# Half a circle around +x.
_ROUND = np.linspace(-math.pi / 2, math.pi / 2, 7)
_ROUND = np.stack([np.cos(_ROUND), np.sin(_ROUND)], axis=1)


class Pen:
  """Draws in its own coordinates, which can be moved, scaled and turned.

  An outline has the same width in all of them.
  """

  def __init__(
    self,
    draw: ImageDraw.ImageDraw,
    unit: float,
    matrix: np.ndarray | None = None,
    origin: np.ndarray | None = None,
  ):
    """Begins at the upper left corner.

    Args:
      draw: Picture that is drawn on.
      unit: Pixels of its height.
      matrix: Pixels [2, 2] of the coordinates' unit vectors, as rows.
      origin: Pixels (x, y) of the coordinates' origin.
    """
    self._draw = draw
    self._unit = unit
    self._matrix = np.eye(2) * unit if matrix is None else matrix
    self._origin = np.zeros(2) if origin is None else origin

  def moved(self, x: float, y: float) -> Self:
    origin = self._origin + np.array([x, y]) @ self._matrix
    return type(self)(self._draw, self._unit, self._matrix, origin)

  def scaled(self, x: float, y: float) -> Self:
    matrix = self._matrix * np.array([[x], [y]])
    return type(self)(self._draw, self._unit, matrix, self._origin)

  def turned(self, angle: float) -> Self:
    """Turns from +x to +y by an angle in radians."""
    if not angle:
      return self
    c, s = math.cos(angle), math.sin(angle)
    matrix = np.array([[c, s], [-s, c]]) @ self._matrix
    return type(self)(self._draw, self._unit, matrix, self._origin)

  def _fill(self, points: np.ndarray, colour: Colour) -> None:
    pixels = points @ self._matrix + self._origin
    self._draw.polygon(pixels.ravel().tolist(), colour)

  def _radii(self, ink: float) -> tuple[float, float]:
    """Returns the width of an outline along x and y."""
    (a, b), (c, d) = self._matrix.tolist()
    radius = ink * _LINE * self._unit
    return radius / math.hypot(a, b), radius / math.hypot(c, d)

  def polygon(
    self, points: Sequence[Point], colour: Colour, ink: float | None = 1
  ) -> None:
    """Draws a polygon; `ink` is the width of its outline, in usual widths."""
    points = tuple(points)
    if ink:
      rx, ry = self._radii(ink)
      self._fill(_grown(points, round(math.sqrt(rx * ry), 4)), INK)
    self._fill(_array(points), colour)

  def ellipse(
    self,
    x: float,
    y: float,
    rx: float,
    ry: float,
    colour: Colour,
    ink: float | None = 1,
  ) -> None:
    """Draws an ellipse around (x, y)."""
    more_x, more_y = self._radii(1)
    # Pixels of the longer radius; an outline is a fixed number of them.
    pixels = max(rx / more_x, ry / more_y) * _LINE * self._unit
    circle = _circle(12 if pixels < 8 else 20 if pixels < 40 else 40)
    if ink:
      size = (rx + ink * more_x, ry + ink * more_y)
      self._fill(circle * size + (x, y), INK)
    self._fill(circle * (rx, ry) + (x, y), colour)

  def box(
    self,
    left: float,
    bottom: float,
    right: float,
    top: float,
    colour: Colour,
    ink: float | None = 1,
  ) -> None:
    """Draws a rectangle."""
    self.polygon(
      ((left, bottom), (right, bottom), (right, top), (left, top)), colour, ink
    )

  def limb(
    self,
    points: Sequence[Point],
    radius: float,
    colour: Colour,
    ink: float | None = 1,
  ) -> None:
    """Draws a line with round ends and joints."""
    ends = list(zip(points, points[1:], strict=False))
    if ink:
      rx, ry = self._radii(ink)
      for a, b in ends:
        self._fill(_capsule(a, b, radius + math.sqrt(rx * ry)), INK)
    for a, b in ends:
      self._fill(_capsule(a, b, radius), colour)


@functools.lru_cache(maxsize=4096)
def _array(points: tuple[Point, ...]) -> np.ndarray:
  return np.array(points, float)


@functools.lru_cache(maxsize=4096)
def _grown(points: tuple[Point, ...], radius: float) -> np.ndarray:
  """Returns a polygon whose edges are moved outwards by `radius`."""
  corners = _array(points)
  edges = np.roll(corners, -1, axis=0) - corners
  edges = edges / np.maximum(np.hypot(*edges.T)[:, None], 1e-9)
  x, y = corners.T
  area = x @ np.roll(y, -1) - y @ np.roll(x, -1)
  normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
  miter = (normals + np.roll(normals, 1, axis=0)) * (1 if area > 0 else -1)
  # No spike is longer than twice the width.
  square = np.maximum((miter * miter).sum(1, keepdims=True), 1.0)
  return corners + radius * 2 * miter / square


def _capsule(a: Point, b: Point, radius: float) -> np.ndarray:
  x, y = b[0] - a[0], b[1] - a[1]
  scale = radius / max(math.hypot(x, y), 1e-9)
  x, y = x * scale, y * scale
  ahead = _ROUND @ np.array(((x, y), (-y, x)))
  return np.concatenate((ahead + b, a - ahead))
