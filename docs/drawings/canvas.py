"""Boxes, arrows and labels of the drawings, in one style.

One unit is a tenth of an inch, and y points up. Sizes are such that a drawing
can be read on a telephone.
"""

from __future__ import annotations

import os
import pathlib

import matplotlib
from matplotlib import patches
from matplotlib.backends import backend_svg
from matplotlib.figure import Figure

BLUE, AMBER, GREEN, RED = '#1f4e79', '#e8920c', '#2a8f7b', '#b5394a'
PALE_BLUE, PALE_AMBER, PALE_GREEN = '#dbe7f3', '#fdebcc', '#d6eee8'
PALE_GREY, GREY, INK = '#eeeeee', '#8a8a8a', '#222222'
WIDTH = 64

# The same file on every machine: no random identifiers, letters as paths.
_SETTINGS = {
  'svg.hashsalt': 'ttt_jax',
  'svg.fonttype': 'path',
  'font.family': 'DejaVu Sans',
}


class Canvas:
  """A drawing of `WIDTH` x `height` units."""

  def __init__(self, height: float):
    self.height = height
    self._figure = Figure(figsize=(WIDTH / 10, height / 10), facecolor='white')
    self._axes = self._figure.add_axes((0, 0, 1, 1))
    self._axes.set(xlim=(0, WIDTH), ylim=(0, height))
    self._axes.set_axis_off()

  def box(
    self,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str = '',
    *,
    fill: str = PALE_BLUE,
    edge: str = BLUE,
    size: float = 10,
    color: str = INK,
    round_by: float = 0.8,
    line: float = 1.2,
    bold: bool = False,
  ) -> None:
    """Draws a box with its lower left corner at (x, y)."""
    style = (
      f'round,pad=0,rounding_size={round_by}' if round_by else 'square,pad=0'
    )
    self._axes.add_patch(
      patches.FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle=style,
        facecolor=fill,
        edgecolor=edge,
        linewidth=line,
      )
    )
    if text:
      self.text(
        x + width / 2, y + height / 2, text, size=size, color=color, bold=bold
      )

  def text(
    self,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 10,
    color: str = INK,
    align: str = 'center',
    bold: bool = False,
    code: bool = False,
  ) -> None:
    """Writes text around (x, y); `align` is the side that x is at."""
    self._axes.text(
      x,
      y,
      text,
      fontsize=size,
      color=color,
      ha=align,
      va='center',
      fontweight='bold' if bold else 'normal',
      fontfamily='DejaVu Sans Mono' if code else 'DejaVu Sans',
      linespacing=1.3,
    )

  def arrow(
    self,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    color: str = INK,
    bend: float = 0.0,
    line: float = 1.4,
    head: bool = True,
    dashed: bool = False,
  ) -> None:
    """Draws an arrow, or a line without a head."""
    self._axes.add_patch(
      patches.FancyArrowPatch(
        start,
        end,
        arrowstyle='-|>' if head else '-',
        mutation_scale=11,
        connectionstyle=f'arc3,rad={bend}',
        color=color,
        linewidth=line,
        linestyle='--' if dashed else '-',
        shrinkA=0,
        shrinkB=0,
      )
    )

  def plus(self, x: float, y: float) -> None:
    """Draws a sum at (x, y), two units wide."""
    self._axes.add_patch(
      patches.Circle(
        (x, y), 1.0, facecolor='white', edgecolor=INK, linewidth=1.2
      )
    )
    self.arrow((x - 0.55, y), (x + 0.55, y), head=False, line=1.2)
    self.arrow((x, y - 0.55), (x, y + 0.55), head=False, line=1.2)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the drawing as SVG, the same bytes every time."""
    with matplotlib.rc_context(_SETTINGS):
      backend_svg.FigureCanvasSVG(self._figure)
      self._figure.savefig(
        pathlib.Path(path), format='svg', metadata={'Date': None}
      )
