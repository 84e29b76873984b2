"""Storage order, attention windows and scan orders of a short sequence.

The sequence has three segments of three latent frames, one token per frame and
per text; `TokenOrder` computes the orders.
"""

from __future__ import annotations

import canvas as lib
import numpy as np

from ttt_jax import token_order

ORDER = token_order.TokenOrder(
  segments=3, segment_latent_frames=3, rows=1, columns=1, text_length=1
)
_CELL, _LEFT = 4.6, 2.1
_FRAMES = ((lib.PALE_BLUE, lib.BLUE), (lib.PALE_GREEN, lib.GREEN))


def names() -> list[str]:
  """Returns the name of each token in storage order: f0, t0, f1, ..."""
  found = [''] * ORDER.length
  for kind, index in (('f', ORDER.video_index), ('t', ORDER.text_index)):
    for i, token in enumerate(index.ravel()):
      found[token] = f'{kind}{i}'
  return found


def draw() -> lib.Canvas:
  """Returns the drawing."""
  c = lib.Canvas(50)
  stored = names()
  c.text(_LEFT, 48, 'storage order', align='left', bold=True)
  _row(c, 41.5, stored)
  for i in range(ORDER.segments):
    first = i * ORDER.stride
    y = 38.6 - 3.6 * i
    ends = _LEFT + _CELL * first, _LEFT + _CELL * (first + ORDER.window)
    c.arrow((ends[0] + 0.3, y), (ends[1] - 0.3, y), head=False, line=3)
    where = (ends[0] - 1, 'right') if i == 2 else (ends[1] + 1, 'left')
    c.text(where[0], y, f'attention window {i}', size=9, align=where[1])
  c.text(_LEFT, 25, 'scan order, forwards', align='left', bold=True)
  _row(c, 18.5, [stored[i] for i in ORDER.forward_order])
  c.text(_LEFT, 12, 'scan order, in reverse', align='left', bold=True)
  _row(c, 5.5, [stored[i] for i in ORDER.reverse_order])
  c.text(
    lib.WIDTH / 2,
    2,
    'f: latent frame, t: text of a segment; here both have one token',
    size=9,
    color=lib.GREY,
  )
  return c


def _row(c, y, tokens):
  for i, name in enumerate(tokens):
    kind, number = name[0], int(name[1:])
    fill, edge = lib.PALE_AMBER, lib.AMBER
    if kind == 'f':
      segment = int(np.ceil(number / ORDER.segment_latent_frames)) - 1
      fill, edge = _FRAMES[max(segment, 0) % 2]
    c.box(
      _LEFT + _CELL * i + 0.15,
      y,
      _CELL - 0.3,
      4.2,
      name,
      fill=fill,
      edge=edge,
      size=10,
      round_by=0.4,
    )
