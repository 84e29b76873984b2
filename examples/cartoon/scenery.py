"""Draws places."""

from __future__ import annotations

import math

from examples.cartoon import story as story_lib
from examples.cartoon.pen import Colour
from examples.cartoon.pen import DARK_WOOD
from examples.cartoon.pen import INK
from examples.cartoon.pen import LEAF
from examples.cartoon.pen import mix
from examples.cartoon.pen import PALETTE
from examples.cartoon.pen import Pen
from examples.cartoon.pen import THIN
from examples.cartoon.pen import WHITE
from examples.cartoon.pen import WOOD

_STONE: Colour = (170, 168, 172)
_GLASS: Colour = (186, 226, 240)
_HORIZON = 0.66
# Sky, far hills or sea, and ground of each place.
_GROUNDS: dict[str, tuple[Colour, Colour, Colour]] = {
  'barn': ((186, 226, 246), (158, 208, 140), (182, 220, 142)),
  'boat': ((196, 238, 246), (98, 176, 214), (246, 230, 180)),
  'kitchen': ((250, 234, 206), (226, 196, 160), (214, 166, 122)),
  'tower': ((222, 212, 246), (178, 172, 212), (198, 196, 206)),
  'tent': ((150, 186, 200), (84, 132, 112), (132, 176, 124)),
  'mill': ((255, 226, 190), (238, 188, 120), (240, 214, 140)),
}


def shadow_colour() -> Colour:
  return (96, 92, 92)


def draw_place(pen: Pen, place: story_lib.Place) -> None:
  """Draws a place in its full width, without prop and cover."""
  sky, far, ground = _GROUNDS[place.kind]
  width = story_lib.PLACE_WIDTH + 0.1
  pen.box(-0.1, -0.1, width, 1.1, sky, None)
  colour = mix(PALETTE[place.colour], WHITE, 0.18)
  main = pen.moved(place.x(place.main), 0)
  landmark = pen.moved(place.x(place.landmark), 0)
  # The mirror image of the layout is also that of the decoration.
  if place.side == 'right':
    pen = pen.moved(story_lib.PLACE_WIDTH, 0).scaled(-1, 1)
  match place.kind:
    case 'barn':
      for x, r in ((0.1, 0.4), (0.95, 0.5), (1.9, 0.45)):
        pen.ellipse(x, 0.74, r, 0.24, far, None)
      _clouds(pen)
      pen.box(-0.1, _HORIZON, width, 1.1, ground, None)
      _fence(pen)
      _barn(main, colour)
      _tree(landmark)
    case 'boat':
      pen.box(-0.1, 0.4, width, 1.1, far, None)
      for x, y in ((0.2, 0.47), (0.95, 0.44), (1.2, 0.52), (1.9, 0.48)):
        pen.limb([(x - 0.05, y), (x + 0.05, y)], 0.008, WHITE, None)
      pen.ellipse(1.0, 0.13, 0.07, 0.07, (255, 226, 120), None)
      pen.box(-0.1, _HORIZON, width, 1.1, ground, None)
      _boat(main, colour)
      _palm(landmark)
    case 'kitchen':
      for x in range(12):
        pen.box(0.19 * x, 0.5, 0.19 * x + 0.012, _HORIZON, far, None)
      pen.box(-0.1, 0.49, width, 0.505, far, None)
      pen.box(-0.1, _HORIZON, width, 1.1, ground, None)
      for y in (0.66, 0.76, 0.88):
        pen.box(-0.1, y, width, y + 0.01, mix(ground, INK, 0.25), None)
      _shelf(pen.moved(1.02, 0.3))
      _stove(main, colour)
      _window(landmark)
    case 'tower':
      for x, r, top in ((0.1, 0.4, 0.34), (1.0, 0.34, 0.28), (1.85, 0.5, 0.36)):
        pen.polygon([(x - r, 0.7), (x, top), (x + r, 0.7)], far, None)
        pen.polygon(
          [(x - r * 0.2, top + 0.08), (x, top), (x + r * 0.2, top + 0.08)],
          WHITE,
          None,
        )
      pen.box(-0.1, _HORIZON, width, 1.1, ground, None)
      for i in range(9):
        x, y = 0.26 * i - 0.02, (0.72, 0.97)[i % 2]
        pen.ellipse(x, y, 0.07, 0.016, mix(ground, INK, 0.12), None)
      _tower(main, colour)
      _fountain(landmark)
    case 'tent':
      for i in range(11):
        x = 0.22 * i - 0.05
        top = (0.2, 0.28, 0.16)[i % 3]
        pen.polygon([(x - 0.15, 0.7), (x, top), (x + 0.15, 0.7)], far, None)
      pen.ellipse(0.98, 0.12, 0.06, 0.06, (250, 244, 214), None)
      pen.box(-0.1, _HORIZON, width, 1.1, ground, None)
      _tent(main, colour)
      _pine(landmark)
    case 'mill':
      pen.ellipse(1.0, 0.46, 0.11, 0.11, (255, 246, 214), None)
      pen.ellipse(0.2, 0.76, 0.7, 0.2, far, None)
      pen.ellipse(1.7, 0.78, 0.8, 0.22, far, None)
      pen.box(-0.1, _HORIZON, width, 1.1, ground, None)
      for i in range(16):
        x, y = 0.14 * i, (0.7, 0.99)[i % 2]
        pen.limb([(x, y), (x + 0.015, y - 0.05)], 0.006, (206, 160, 70), None)
      _mill(main, colour)
      _well(landmark)


def _clouds(pen: Pen) -> None:
  for x, y in ((0.3, 0.12), (1.0, 0.2), (1.8, 0.1)):
    for dx, r in ((-0.08, 0.045), (0, 0.065), (0.08, 0.045)):
      pen.ellipse(x + dx, y, r * 1.3, r * 0.8, WHITE, None)


def _fence(pen: Pen) -> None:
  for y in (0.6, 0.65):
    pen.box(0.9, y, 1.95, y + 0.018, (240, 232, 214), 0.4)
  for i in range(8):
    x = 0.92 + 0.14 * i
    pen.box(x, 0.56, x + 0.03, 0.7, (240, 232, 214), 0.4)


def _barn(pen: Pen, colour: Colour) -> None:
  roof = (134, 84, 74)
  pen.polygon(
    [
      (-0.3, 0.74),
      (-0.3, 0.4),
      (-0.2, 0.24),
      (0, 0.14),
      (0.2, 0.24),
      (0.3, 0.4),
      (0.3, 0.74),
    ],
    colour,
  )
  for side in (-1, 1):
    pen.limb(
      [(0, 0.13), (side * 0.21, 0.225), (side * 0.33, 0.42)], 0.022, roof, THIN
    )
  pen.ellipse(0, 0.31, 0.06, 0.06, mix(colour, INK, 0.6), THIN)
  pen.box(-0.14, 0.45, 0.14, 0.74, mix(colour, INK, 0.25), THIN)
  for a, b in (((-0.13, 0.46), (0.13, 0.73)), ((0.13, 0.46), (-0.13, 0.73))):
    pen.limb([a, b], 0.012, WHITE, None)


def _tree(pen: Pen) -> None:
  pen.polygon([(-0.05, 0.76), (-0.03, 0.45), (0.03, 0.45), (0.05, 0.76)], WOOD)
  parts = ((-0.12, 0.36, 0.12), (0.12, 0.36, 0.12), (0, 0.22, 0.15))
  for x, y, r in parts:
    pen.ellipse(x, y, r, r * 0.95, LEAF)
  for x, y, r in parts:
    pen.ellipse(x, y, r, r * 0.95, LEAF, None)
  pen.ellipse(-0.05, 0.18, 0.06, 0.045, mix(LEAF, WHITE, 0.3), None)


def _boat(pen: Pen, colour: Colour) -> None:
  pen.box(-0.012, 0.08, 0.012, 0.58, WOOD, THIN)
  pen.polygon([(0.03, 0.1), (0.03, 0.5), (0.26, 0.5)], WHITE, THIN)
  pen.polygon([(-0.03, 0.16), (-0.03, 0.5), (-0.2, 0.5)], WHITE, THIN)
  pen.polygon(
    [(-0.34, 0.55), (0.34, 0.55), (0.24, 0.74), (-0.24, 0.74)], colour
  )
  pen.limb([(-0.34, 0.56), (0.34, 0.56)], 0.018, mix(colour, INK, 0.35), THIN)


def _palm(pen: Pen) -> None:
  pen.limb([(0.0, 0.74), (0.02, 0.5), (-0.02, 0.26)], 0.026, WOOD)
  for angle in (-2.7, -1.9, -1.2, -0.4, 0.25, 2.9):
    x, y = 0.21 * math.cos(angle), 0.15 * math.sin(angle)
    pen.polygon(
      [
        (-0.02, 0.25),
        (-0.02 + x * 0.5, 0.19 + y * 0.7),
        (-0.02 + x, 0.28 + y * 0.8),
        (-0.02 + x * 0.5, 0.26 + y * 0.5),
      ],
      LEAF,
      THIN,
    )


def _shelf(pen: Pen) -> None:
  pen.box(-0.17, 0, 0.17, 0.025, WOOD, THIN)
  for x, colour in ((-0.1, PALETTE['white']), (0.0, _GLASS), (0.1, _STONE)):
    pen.box(x - 0.03, -0.085, x + 0.03, -0.01, colour, THIN)


def _stove(pen: Pen, colour: Colour) -> None:
  pen.box(-0.05, -0.1, 0.05, 0.3, mix(colour, INK, 0.35), THIN)
  pen.polygon(
    [(-0.24, 0.34), (-0.08, 0.22), (0.08, 0.22), (0.24, 0.34)],
    mix(colour, INK, 0.2),
    THIN,
  )
  pen.box(-0.27, 0.44, 0.27, 0.76, colour)
  pen.box(-0.29, 0.425, 0.29, 0.465, mix(colour, INK, 0.35), THIN)
  pen.box(-0.15, 0.52, 0.15, 0.7, (70, 60, 68), THIN)
  pen.ellipse(0.0, 0.66, 0.08, 0.04, (250, 150, 50), None)
  pen.box(0.08, 0.34, 0.22, 0.42, _STONE, THIN)


def _window(pen: Pen) -> None:
  pen.box(-0.19, 0.12, 0.19, 0.46, WHITE)
  pen.box(-0.155, 0.155, 0.155, 0.425, (158, 214, 246), 0.5)
  pen.ellipse(0, 0.43, 0.15, 0.06, (150, 206, 132), None)
  pen.box(-0.012, 0.15, 0.012, 0.43, WHITE, None)
  pen.box(-0.155, 0.28, 0.155, 0.3, WHITE, None)
  for side in (-1, 1):
    pen.polygon(
      [
        (side * 0.2, 0.1),
        (side * 0.08, 0.1),
        (side * 0.2, 0.36),
      ],
      (240, 130, 120),
      THIN,
    )


def _tower(pen: Pen, colour: Colour) -> None:
  top = 0.12
  pen.box(-0.2, top, 0.2, 0.76, colour)
  for x in (-0.22, -0.07, 0.08):
    pen.box(x, 0.05, x + 0.14 - 0.03, 0.17, colour)
  pen.box(-0.22, 0.14, 0.22, 0.2, mix(colour, INK, 0.2), THIN)
  pen.ellipse(0, 0.34, 0.05, 0.075, mix(colour, INK, 0.65), THIN)
  pen.ellipse(0, 0.58, 0.1, 0.1, DARK_WOOD, THIN)
  pen.box(-0.1, 0.58, 0.1, 0.76, DARK_WOOD, THIN)
  pen.box(-0.095, 0.57, 0.095, 0.7, DARK_WOOD, None)
  for x, y in ((-0.13, 0.28), (0.12, 0.44), (-0.14, 0.5), (0.14, 0.25)):
    pen.box(x - 0.03, y, x + 0.03, y + 0.02, mix(colour, INK, 0.25), None)


def _fountain(pen: Pen) -> None:
  for side in (-1, 1):
    pen.limb(
      [(0, 0.36), (side * 0.07, 0.33), (side * 0.11, 0.44)],
      0.012,
      (120, 196, 240),
      None,
    )
  pen.box(-0.03, 0.4, 0.03, 0.68, _STONE)
  pen.polygon(
    [(-0.15, 0.46), (0.15, 0.46), (0.06, 0.53), (-0.06, 0.53)], _STONE
  )
  pen.polygon(
    [(-0.22, 0.64), (0.22, 0.64), (0.17, 0.76), (-0.17, 0.76)], _STONE
  )
  pen.ellipse(0, 0.645, 0.19, 0.025, (120, 196, 240), None)


def _tent(pen: Pen, colour: Colour) -> None:
  pen.polygon([(0, 0.26), (-0.38, 0.76), (0.38, 0.76)], colour)
  pen.polygon(
    [(0, 0.28), (0.16, 0.28), (0.44, 0.7), (0.36, 0.75)],
    mix(colour, INK, 0.25),
    THIN,
  )
  pen.polygon([(0, 0.42), (-0.13, 0.76), (0.13, 0.76)], (72, 60, 70), THIN)
  pen.polygon(
    [(0, 0.42), (-0.13, 0.76), (-0.19, 0.74)], mix(colour, WHITE, 0.3), THIN
  )


def _pine(pen: Pen) -> None:
  pen.box(-0.03, 0.6, 0.03, 0.76, WOOD)
  colour = (58, 130, 92)
  for top, low, half in (
    (0.34, 0.66, 0.2),
    (0.2, 0.48, 0.165),
    (0.07, 0.3, 0.12),
  ):
    pen.polygon([(0, top), (-half, low), (half, low)], colour)


def _mill(pen: Pen, colour: Colour) -> None:
  pen.polygon([(-0.13, 0.28), (0.13, 0.28), (0.2, 0.76), (-0.2, 0.76)], colour)
  pen.polygon(
    [(-0.15, 0.29), (0, 0.16), (0.15, 0.29)], mix(colour, INK, 0.4), THIN
  )
  pen.ellipse(0, 0.62, 0.06, 0.06, DARK_WOOD, THIN)
  pen.box(-0.06, 0.62, 0.06, 0.76, DARK_WOOD, THIN)
  pen.box(-0.055, 0.6, 0.055, 0.7, DARK_WOOD, None)
  hub = pen.moved(0, 0.3)
  for quarter in range(4):
    sail = hub.turned(0.5 + quarter * math.pi / 2)
    sail.box(0.0, -0.008, 0.27, 0.008, WOOD, THIN)
    sail.box(0.08, 0.0, 0.27, 0.08, WHITE, THIN)
  pen.ellipse(0, 0.3, 0.025, 0.025, DARK_WOOD, THIN)


def _well(pen: Pen) -> None:
  for x in (-0.12, 0.12):
    pen.box(x - 0.014, 0.38, x + 0.014, 0.64, WOOD, THIN)
  pen.polygon([(-0.2, 0.42), (0, 0.28), (0.2, 0.42)], (176, 92, 74))
  pen.box(-0.005, 0.42, 0.005, 0.54, INK, None)
  pen.box(-0.17, 0.6, 0.17, 0.76, _STONE)
  pen.box(-0.17, 0.6, 0.17, 0.64, mix(_STONE, INK, 0.4), THIN)
  for x, y in ((-0.1, 0.67), (0.05, 0.67), (-0.02, 0.71), (0.11, 0.71)):
    pen.box(x - 0.035, y, x + 0.035, y + 0.016, mix(_STONE, INK, 0.25), None)
