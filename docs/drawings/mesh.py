"""The tokens on each device of a mesh, between layers and inside of them."""

from __future__ import annotations

import canvas as lib

_DATA, _SP = 2, 4
_COLORS = (
  (lib.PALE_BLUE, lib.BLUE),
  (lib.PALE_GREEN, lib.GREEN),
  (lib.PALE_AMBER, lib.AMBER),
  ('#f6dde1', lib.RED),
)
_CELL = 4.4


def draw() -> lib.Canvas:
  """Returns the drawing."""
  c = lib.Canvas(57)
  c.text(1, 55, 'the mesh: data 2, sp 4', align='left', bold=True)
  for row in range(_DATA):
    y = 46.5 - 6.2 * row
    c.text(15, y + 2.5, f'clips of part {row}', align='right', size=9.5)
    for column, (fill, edge) in enumerate(_COLORS):
      device = row * _SP + column
      c.box(
        17 + 11 * column, y, 10, 5, f'device {device}', fill=fill, edge=edge
      )
  c.text(
    lib.WIDTH / 2,
    37.5,
    'each row holds one part of the parameters (FSDP over data)',
    size=9,
    color=lib.GREY,
  )

  c.text(
    1, 31, 'one clip, on the four devices of a row', align='left', bold=True
  )
  _slab(c, 8, 'by tokens', lambda token, head: token)
  _slab(c, 41, 'by heads', lambda token, head: head)
  for y, start, end in ((20.5, 27, 34.5), (13, 34.5, 27)):
    c.arrow((start, y), (end, y))
  c.text(30.7, 22.6, 'all-to-all', size=9.5)
  c.text(30.7, 10.6, 'all-to-all', size=9.5)
  c.text(16.8, 2.8, 'dense layers,\nnorms', size=9.5)
  c.text(49.8, 2.8, 'attention, mixer:\ncomplete sequences', size=9.5)
  return c


def _slab(c, left, title, device):
  """Draws tokens (rows) x heads (columns), coloured by device."""
  c.text(left + 2 * _CELL, 27.6, title, size=10.5)
  for token in range(4):
    for head in range(4):
      fill, edge = _COLORS[device(token, head)]
      c.box(
        left + _CELL * head,
        21.5 - _CELL * token,
        _CELL - 0.4,
        _CELL - 0.4,
        fill=fill,
        edge=edge,
        round_by=0.3,
      )
  grey = dict(size=8.5, color=lib.GREY)
  c.text(left + 2 * _CELL, 6.6, 'heads →', **grey)
  c.text(left - 1, 21.5, 'tokens\n↓', align='right', **grey)
