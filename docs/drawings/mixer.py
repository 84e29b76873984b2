"""The position of the mixer in a block: twice, each time before a gate."""

from __future__ import annotations

import canvas as lib

_STREAM, _BRANCH = 15, 47  # Centres of the two columns.
_WIDTH = 27


def draw() -> lib.Canvas:
  """Returns the drawing."""
  c = lib.Canvas(62)
  c.text(_STREAM, 2.5, 'tokens', size=11)
  c.arrow((_STREAM, 4.2), (_STREAM, 7.5))
  c.box(_STREAM - 11, 7.5, 22, 6, 'attention inside\neach segment')

  _branch(c, 13.5, 27.5, [('mixer, forwards', False)], 'a')
  _branch(
    c,
    28.5,
    54.5,
    [
      ('reverse the tokens', True),
      ('the same mixer,\nthe same weights', False),
      ('reverse back', True),
    ],
    'b',
  )
  c.arrow((_STREAM, 55.5), (_STREAM, 58.2))
  c.text(_STREAM, 59.8, 'out', size=11)
  for y, name in ((17, 'x'), (31.5, 'z')):
    c.text(_STREAM - 1.5, y, name, size=11, align='right')
  return c


def _branch(c, start, end, boxes, gate):
  """Draws a branch from the stream at `start` that is added at `end`."""
  c.arrow((_STREAM, start), (_STREAM, end - 1))
  c.plus(_STREAM, end)
  y = start + 2
  c.arrow((_STREAM, y), (_BRANCH, y), head=False)
  for text, is_order in boxes:
    height = 5.8 if '\n' in text else 4.2
    c.arrow((_BRANCH, y), (_BRANCH, y + 2))
    style = (
      dict(fill=lib.PALE_GREY, edge=lib.GREY)
      if is_order
      else dict(fill=lib.PALE_GREEN, edge=lib.GREEN)
    )
    c.box(_BRANCH - _WIDTH / 2, y + 2, _WIDTH, height, text, **style)
    y += 2 + height
  c.arrow((_BRANCH, y), (_BRANCH, end - 2.1))
  c.box(
    _BRANCH - _WIDTH / 2,
    end - 2.1,
    _WIDTH,
    4.2,
    f'times tanh({gate}), per channel',
    fill=lib.PALE_AMBER,
    edge=lib.AMBER,
  )
  c.arrow((_BRANCH - _WIDTH / 2, end), (_STREAM + 1, end))
