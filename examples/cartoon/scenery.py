"""Draws places, props and what characters hide behind."""

from __future__ import annotations

import math

from examples.cartoon import story as story_lib
from examples.cartoon.pen import Colour
from examples.cartoon.pen import INK
from examples.cartoon.pen import mix
from examples.cartoon.pen import PALETTE
from examples.cartoon.pen import Pen
from examples.cartoon.pen import WHITE

_WOOD: Colour = (150, 104, 66)
_DARK_WOOD: Colour = (112, 76, 52)
_LEAF: Colour = (92, 160, 84)
_STONE: Colour = (170, 168, 172)
_GLASS: Colour = (186, 226, 240)
_GOLD: Colour = (255, 214, 64)
_THIN = 0.7  # outlines of the scenery
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
      [(0, 0.13), (side * 0.21, 0.225), (side * 0.33, 0.42)], 0.022, roof, _THIN
    )
  pen.ellipse(0, 0.31, 0.06, 0.06, mix(colour, INK, 0.6), _THIN)
  pen.box(-0.14, 0.45, 0.14, 0.74, mix(colour, INK, 0.25), _THIN)
  for a, b in (((-0.13, 0.46), (0.13, 0.73)), ((0.13, 0.46), (-0.13, 0.73))):
    pen.limb([a, b], 0.012, WHITE, None)


def _tree(pen: Pen) -> None:
  pen.polygon([(-0.05, 0.76), (-0.03, 0.45), (0.03, 0.45), (0.05, 0.76)], _WOOD)
  parts = ((-0.12, 0.36, 0.12), (0.12, 0.36, 0.12), (0, 0.22, 0.15))
  for x, y, r in parts:
    pen.ellipse(x, y, r, r * 0.95, _LEAF)
  for x, y, r in parts:
    pen.ellipse(x, y, r, r * 0.95, _LEAF, None)
  pen.ellipse(-0.05, 0.18, 0.06, 0.045, mix(_LEAF, WHITE, 0.3), None)


def _boat(pen: Pen, colour: Colour) -> None:
  pen.box(-0.012, 0.08, 0.012, 0.58, _WOOD, _THIN)
  pen.polygon([(0.03, 0.1), (0.03, 0.5), (0.26, 0.5)], WHITE, _THIN)
  pen.polygon([(-0.03, 0.16), (-0.03, 0.5), (-0.2, 0.5)], WHITE, _THIN)
  pen.polygon(
    [(-0.34, 0.55), (0.34, 0.55), (0.24, 0.74), (-0.24, 0.74)], colour
  )
  pen.limb([(-0.34, 0.56), (0.34, 0.56)], 0.018, mix(colour, INK, 0.35), _THIN)


def _palm(pen: Pen) -> None:
  pen.limb([(0.0, 0.74), (0.02, 0.5), (-0.02, 0.26)], 0.026, _WOOD)
  for angle in (-2.7, -1.9, -1.2, -0.4, 0.25, 2.9):
    x, y = 0.21 * math.cos(angle), 0.15 * math.sin(angle)
    pen.polygon(
      [
        (-0.02, 0.25),
        (-0.02 + x * 0.5, 0.19 + y * 0.7),
        (-0.02 + x, 0.28 + y * 0.8),
        (-0.02 + x * 0.5, 0.26 + y * 0.5),
      ],
      _LEAF,
      _THIN,
    )


def _shelf(pen: Pen) -> None:
  pen.box(-0.17, 0, 0.17, 0.025, _WOOD, _THIN)
  for x, colour in ((-0.1, PALETTE['white']), (0.0, _GLASS), (0.1, _STONE)):
    pen.box(x - 0.03, -0.085, x + 0.03, -0.01, colour, _THIN)


def _stove(pen: Pen, colour: Colour) -> None:
  pen.box(-0.05, -0.1, 0.05, 0.3, mix(colour, INK, 0.35), _THIN)
  pen.polygon(
    [(-0.24, 0.34), (-0.08, 0.22), (0.08, 0.22), (0.24, 0.34)],
    mix(colour, INK, 0.2),
    _THIN,
  )
  pen.box(-0.27, 0.44, 0.27, 0.76, colour)
  pen.box(-0.29, 0.425, 0.29, 0.465, mix(colour, INK, 0.35), _THIN)
  pen.box(-0.15, 0.52, 0.15, 0.7, (70, 60, 68), _THIN)
  pen.ellipse(0.0, 0.66, 0.08, 0.04, (250, 150, 50), None)
  pen.box(0.08, 0.34, 0.22, 0.42, _STONE, _THIN)


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
      _THIN,
    )


def _tower(pen: Pen, colour: Colour) -> None:
  top = 0.12
  pen.box(-0.2, top, 0.2, 0.76, colour)
  for x in (-0.22, -0.07, 0.08):
    pen.box(x, 0.05, x + 0.14 - 0.03, 0.17, colour)
  pen.box(-0.22, 0.14, 0.22, 0.2, mix(colour, INK, 0.2), _THIN)
  pen.ellipse(0, 0.34, 0.05, 0.075, mix(colour, INK, 0.65), _THIN)
  pen.ellipse(0, 0.58, 0.1, 0.1, _DARK_WOOD, _THIN)
  pen.box(-0.1, 0.58, 0.1, 0.76, _DARK_WOOD, _THIN)
  pen.box(-0.095, 0.57, 0.095, 0.7, _DARK_WOOD, None)
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
    _THIN,
  )
  pen.polygon([(0, 0.42), (-0.13, 0.76), (0.13, 0.76)], (72, 60, 70), _THIN)
  pen.polygon(
    [(0, 0.42), (-0.13, 0.76), (-0.19, 0.74)], mix(colour, WHITE, 0.3), _THIN
  )


def _pine(pen: Pen) -> None:
  pen.box(-0.03, 0.6, 0.03, 0.76, _WOOD)
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
    [(-0.15, 0.29), (0, 0.16), (0.15, 0.29)], mix(colour, INK, 0.4), _THIN
  )
  pen.ellipse(0, 0.62, 0.06, 0.06, _DARK_WOOD, _THIN)
  pen.box(-0.06, 0.62, 0.06, 0.76, _DARK_WOOD, _THIN)
  pen.box(-0.055, 0.6, 0.055, 0.7, _DARK_WOOD, None)
  hub = pen.moved(0, 0.3)
  for quarter in range(4):
    sail = hub.turned(0.5 + quarter * math.pi / 2)
    sail.box(0.0, -0.008, 0.27, 0.008, _WOOD, _THIN)
    sail.box(0.08, 0.0, 0.27, 0.08, WHITE, _THIN)
  pen.ellipse(0, 0.3, 0.025, 0.025, _DARK_WOOD, _THIN)


def _well(pen: Pen) -> None:
  for x in (-0.12, 0.12):
    pen.box(x - 0.014, 0.38, x + 0.014, 0.64, _WOOD, _THIN)
  pen.polygon([(-0.2, 0.42), (0, 0.28), (0.2, 0.42)], (176, 92, 74))
  pen.box(-0.005, 0.42, 0.005, 0.54, INK, None)
  pen.box(-0.17, 0.6, 0.17, 0.76, _STONE)
  pen.box(-0.17, 0.6, 0.17, 0.64, mix(_STONE, INK, 0.4), _THIN)
  for x, y in ((-0.1, 0.67), (0.05, 0.67), (-0.02, 0.71), (0.11, 0.71)):
    pen.box(x - 0.035, y, x + 0.035, y + 0.016, mix(_STONE, INK, 0.25), None)


def draw_prop(pen: Pen, kind: str, x: float, change: float) -> None:
  """Draws a prop.

  Args:
    pen: Pen of the place.
    kind: One of `words.PROPS`.
    x: Position of its middle.
    change: Share of its change, 0 to 1.
  """
  pen = pen.moved(x, 0.82)
  match kind:
    case 'lamp':
      pen.box(-0.014, -0.3, 0.014, 0, (84, 84, 100), _THIN)
      pen.box(-0.05, -0.02, 0.05, 0.005, (84, 84, 100), _THIN)
      glass = mix((122, 128, 150), (255, 236, 92), change)
      if change:
        r = 0.13 * change
        pen.ellipse(0, -0.37, r, r, (255, 244, 176), None)
      pen.ellipse(0, -0.37, 0.062, 0.07, glass)
      pen.polygon(
        [(-0.06, -0.43), (0, -0.48), (0.06, -0.43)], (84, 84, 100), _THIN
      )
    case 'jug':
      _stump(pen)
      clay = (224, 132, 92)
      if change < 1:
        jug = pen.moved(0.02 * change, -0.1).turned(0.9 * change)
        jug = jug.scaled(1, 1 - 0.5 * change)
        jug.ellipse(0.06, -0.1, 0.04, 0.045, clay)
        jug.ellipse(0.06, -0.1, 0.02, 0.025, mix(clay, INK, 0.5), None)
        jug.ellipse(0, -0.075, 0.07, 0.08, clay)
        jug.box(-0.04, -0.185, 0.04, -0.12, clay)
        jug.box(-0.04, -0.12, 0.04, -0.1, clay, None)
        jug.box(-0.065, -0.08, 0.065, -0.06, WHITE, None)
      if change > 0.4:
        for x0, y0, angle in (
          (-0.06, -0.12, 0.3),
          (0.0, -0.11, 2.0),
          (0.06, -0.125, 4.0),
        ):
          shard = pen.moved(x0, y0).turned(angle)
          size = 0.045 * min(1, (change - 0.4) / 0.4)
          shard.polygon([(-size, size), (size, size * 0.7), (0, -size)], clay)
    case 'chest':
      lid = pen.moved(-0.1, -0.11).turned(-1.25 * change)
      if change:
        pen.box(-0.08, -0.14, 0.08, -0.1, _GOLD, _THIN)
        for i in (-0.04, 0.02, 0.06):
          pen.ellipse(i, -0.14, 0.025, 0.025, _GOLD, 0.5)
      lid.polygon(
        [
          (0, 0),
          (0.0, -0.06),
          (0.04, -0.1),
          (0.16, -0.1),
          (0.2, -0.06),
          (0.2, 0),
        ],
        _WOOD,
      )
      pen.box(-0.1, -0.11, 0.1, 0, _WOOD)
      pen.box(-0.02, -0.11, 0.02, -0.05, _GOLD, 0.5)
    case 'flag':
      pen.box(-0.012, -0.46, 0.012, 0, (236, 232, 224), _THIN)
      pen.ellipse(0, -0.46, 0.02, 0.02, _GOLD, _THIN)
      y = -0.12 - 0.31 * change
      span = 0.1 + 0.1 * change
      pen.polygon(
        [(0.014, y - 0.02), (0.014 + span, y + 0.04), (0.014, y + 0.11)],
        (236, 110, 160),
      )


def _stump(pen: Pen) -> None:
  pen.box(-0.09, -0.09, 0.09, 0.0, _WOOD, _THIN)
  pen.ellipse(0, -0.09, 0.09, 0.022, (214, 178, 130), _THIN)


def draw_cover(pen: Pen, kind: str, x: float) -> None:
  """Draws what characters hide behind, in front of everything else."""
  pen = pen.moved(x, 1.02)
  match kind:
    case 'hay':
      pen.polygon(
        [
          (-0.18, 0.02),
          (-0.17, -0.14),
          (-0.1, -0.25),
          (0.1, -0.25),
          (0.17, -0.14),
          (0.18, 0.02),
        ],
        (244, 204, 96),
      )
      for x0, y0 in (
        (-0.07, -0.17),
        (0.04, -0.2),
        (0.08, -0.09),
        (-0.1, -0.07),
      ):
        pen.limb(
          [(x0, y0), (x0 + 0.03, y0 + 0.05)], 0.006, (196, 146, 50), None
        )
    case 'bush':
      parts = ((-0.1, -0.1, 0.1), (0.1, -0.1, 0.1), (0, -0.14, 0.12))
      for each in (1, None):
        for x0, y0, r in parts:
          pen.ellipse(x0, y0, r, r, _LEAF, each)
        pen.box(-0.18, -0.08, 0.18, 0.02, _LEAF, None)
      for x0, y0 in ((-0.08, -0.14), (0.06, -0.18), (0.1, -0.06)):
        pen.ellipse(x0, y0, 0.018, 0.018, (236, 92, 110), None)
    case 'rock':
      pen.polygon(
        [
          (-0.2, 0.02),
          (-0.16, -0.15),
          (-0.05, -0.25),
          (0.1, -0.22),
          (0.18, -0.1),
          (0.2, 0.02),
        ],
        (150, 146, 156),
      )
      pen.polygon(
        [(-0.12, -0.13), (-0.04, -0.21), (0.06, -0.19), (-0.03, -0.12)],
        (190, 186, 194),
        None,
      )
    case 'barrel':
      pen.polygon(
        [
          (-0.13, 0.02),
          (-0.17, -0.1),
          (-0.13, -0.25),
          (0.13, -0.25),
          (0.17, -0.1),
          (0.13, 0.02),
        ],
        _WOOD,
      )
      for y in (-0.2, -0.04):
        pen.box(-0.15, y, 0.15, y + 0.03, (96, 96, 108), None)
      pen.ellipse(0, -0.25, 0.12, 0.02, _DARK_WOOD, _THIN)
    case 'log':
      for x0, y0 in ((-0.1, -0.05), (0.1, -0.05), (0, -0.19)):
        pen.ellipse(x0, y0, 0.1, 0.09, _WOOD)
        pen.ellipse(x0, y0, 0.06, 0.055, (220, 184, 134), None)
        pen.ellipse(x0, y0, 0.025, 0.022, _WOOD, None)
    case 'table':
      pen.box(-0.16, -0.22, 0.16, 0.02, (238, 240, 246))
      pen.box(-0.2, -0.25, 0.2, -0.2, _WOOD)
      for i in range(4):
        pen.box(
          -0.14 + 0.08 * i, -0.19, -0.1 + 0.08 * i, 0.02, (228, 140, 140), None
        )
