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

  def polygon(
    self,
    points: Sequence[Point] | np.ndarray,
    colour: Colour,
    ink: float | None = 1,
  ) -> None:
    """Draws a polygon; `ink` is the width of its outline, in usual widths."""
    pixels = np.asarray(points, float) @ self._matrix + self._origin
    flat = pixels.ravel().tolist()
    if ink:
      self._outline(pixels, ink)
    self._draw.polygon(flat, colour)

  def _outline(self, pixels: np.ndarray, ink: float) -> None:
    """Draws a polygon that is larger by the width of an outline."""
    radius = ink * _LINE * self._unit
    edges = np.roll(pixels, -1, axis=0) - pixels
    edges = edges / np.maximum(np.hypot(*edges.T)[:, None], 1e-9)
    before = np.roll(edges, 1, axis=0)
    x, y = pixels[:, 0], pixels[:, 1]
    area = x @ np.roll(y, -1) - y @ np.roll(x, -1)
    sign = 1 if area > 0 else -1
    normals = sign * np.stack([edges[:, 1], -edges[:, 0]], axis=1)
    previous = sign * np.stack([before[:, 1], -before[:, 0]], axis=1)
    miter = normals + previous
    # No spike is longer than twice the width.
    square = np.maximum((miter * miter).sum(1, keepdims=True), 1.0)
    outer = pixels + radius * 2 * miter / square
    self._draw.polygon(outer.ravel().tolist(), INK)

  def ellipse(
    self,
    x: float,
    y: float,
    rx: float,
    ry: float,
    colour: Colour,
    ink: float | None = 1,
  ) -> None:
    pixels = max(rx, ry) * float(np.abs(self._matrix).max())
    circle = _circle(12 if pixels < 8 else 20 if pixels < 40 else 40)
    self.polygon(circle * (rx, ry) + (x, y), colour, ink)

  def box(
    self,
    left: float,
    bottom: float,
    right: float,
    top: float,
    colour: Colour,
    ink: float | None = 1,
  ) -> None:
    self.polygon(
      [(left, bottom), (right, bottom), (right, top), (left, top)], colour, ink
    )

  def limb(
    self,
    points: Sequence[Point],
    radius: float,
    colour: Colour,
    ink: float | None = 1,
  ) -> None:
    """Draws a line with round ends and joints."""
    parts = [
      _capsule(a, b, radius) for a, b in zip(points, points[1:], strict=False)
    ]
    pixels = [part @ self._matrix + self._origin for part in parts]
    if ink:
      for part in pixels:
        self._outline(part, ink)
    for part in pixels:
      self._draw.polygon(part.ravel().tolist(), colour)


def _capsule(a: Point, b: Point, radius: float) -> np.ndarray:
  angle = math.atan2(b[1] - a[1], b[0] - a[0])
  turn = np.linspace(-math.pi / 2, math.pi / 2, 7) + angle
  ahead = np.stack([np.cos(turn), np.sin(turn)], axis=1) * radius
  return np.concatenate([ahead + b, -ahead + a])
