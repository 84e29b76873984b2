"""Draws props, and the objects that hide characters."""

from __future__ import annotations

from examples.cartoon.pen import DARK_WOOD
from examples.cartoon.pen import GOLD
from examples.cartoon.pen import INK
from examples.cartoon.pen import LEAF
from examples.cartoon.pen import mix
from examples.cartoon.pen import Pen
from examples.cartoon.pen import THIN
from examples.cartoon.pen import WHITE
from examples.cartoon.pen import WOOD


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
      pen.box(-0.014, -0.3, 0.014, 0, (84, 84, 100), THIN)
      pen.box(-0.05, -0.02, 0.05, 0.005, (84, 84, 100), THIN)
      glass = mix((122, 128, 150), (255, 236, 92), change)
      if change:
        r = 0.13 * change
        pen.ellipse(0, -0.37, r, r, (255, 244, 176), None)
      pen.ellipse(0, -0.37, 0.062, 0.07, glass)
      pen.polygon(
        [(-0.06, -0.43), (0, -0.48), (0.06, -0.43)], (84, 84, 100), THIN
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
        pen.box(-0.08, -0.14, 0.08, -0.1, GOLD, THIN)
        for i in (-0.04, 0.02, 0.06):
          pen.ellipse(i, -0.14, 0.025, 0.025, GOLD, 0.5)
      lid.polygon(
        [
          (0, 0),
          (0.0, -0.06),
          (0.04, -0.1),
          (0.16, -0.1),
          (0.2, -0.06),
          (0.2, 0),
        ],
        WOOD,
      )
      pen.box(-0.1, -0.11, 0.1, 0, WOOD)
      pen.box(-0.02, -0.11, 0.02, -0.05, GOLD, 0.5)
    case 'flag':
      pen.box(-0.012, -0.46, 0.012, 0, (236, 232, 224), THIN)
      pen.ellipse(0, -0.46, 0.02, 0.02, GOLD, THIN)
      y = -0.12 - 0.31 * change
      span = 0.1 + 0.1 * change
      pen.polygon(
        [(0.014, y - 0.02), (0.014 + span, y + 0.04), (0.014, y + 0.11)],
        (236, 110, 160),
      )


def _stump(pen: Pen) -> None:
  pen.box(-0.09, -0.09, 0.09, 0.0, WOOD, THIN)
  pen.ellipse(0, -0.09, 0.09, 0.022, (214, 178, 130), THIN)


def draw_cover(pen: Pen, kind: str, x: float) -> None:
  """Draws the object that hides characters, in front of everything else."""
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
          pen.ellipse(x0, y0, r, r, LEAF, each)
        pen.box(-0.18, -0.08, 0.18, 0.02, LEAF, None)
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
        WOOD,
      )
      for y in (-0.2, -0.04):
        pen.box(-0.15, y, 0.15, y + 0.03, (96, 96, 108), None)
      pen.ellipse(0, -0.25, 0.12, 0.02, DARK_WOOD, THIN)
    case 'log':
      for x0, y0 in ((-0.1, -0.05), (0.1, -0.05), (0, -0.19)):
        pen.ellipse(x0, y0, 0.1, 0.09, WOOD)
        pen.ellipse(x0, y0, 0.06, 0.055, (220, 184, 134), None)
        pen.ellipse(x0, y0, 0.025, 0.022, WOOD, None)
    case 'table':
      pen.box(-0.16, -0.22, 0.16, 0.02, (238, 240, 246))
      pen.box(-0.2, -0.25, 0.2, -0.2, WOOD)
      for i in range(4):
        pen.box(
          -0.14 + 0.08 * i, -0.19, -0.1 + 0.08 * i, 0.02, (228, 140, 140), None
        )
