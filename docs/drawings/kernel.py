"""The fused inner loop: the state stays on the chip while tokens stream by."""

from __future__ import annotations

import canvas as lib


def draw() -> lib.Canvas:
  """Returns the drawing."""
  c = lib.Canvas(48)
  c.box(1, 1, 62, 13, fill=lib.PALE_GREY, edge=lib.GREY)
  c.text(61, 2.9, 'memory of the chip (HBM)', align='right', size=9)
  styles = {
    'out': dict(fill=lib.PALE_BLUE, edge=lib.BLUE),
    'now': dict(fill=lib.PALE_GREEN, edge=lib.GREEN),
    'next': dict(fill='white', edge=lib.GREEN),
  }
  for i, name in enumerate(('out', 'now', 'next', '', '')):
    style = styles.get(name, dict(fill='white', edge=lib.GREY))
    text = 'out' if name == 'out' else 'q k v eta'
    c.box(3.5 + 11.7 * i, 5, 10.3, 6.5, text, size=9.5, **style)

  c.box(1, 18, 62, 29, fill='#fbfbfb', edge=lib.INK)
  c.text(3, 44.6, 'vector memory (VMEM)', align='left', size=9)
  c.arrow((8.6, 23), (8.6, 11.5))
  c.arrow((20.3, 11.5), (20.3, 23))
  c.arrow((32, 11.5), (32, 19), dashed=True)
  c.text(33.5, 16, 'the next block is copied meanwhile', align='left', size=8.5)
  c.box(
    4,
    23,
    25,
    6.5,
    'a mini-batch of 64 tokens,\ntwo heads in 128 lanes',
    fill=lib.PALE_GREEN,
    edge=lib.GREEN,
    size=9,
  )
  c.arrow((16.5, 29.5), (16.5, 35))
  c.box(4, 35, 25, 6.5, 'inner gradient,\nin closed form', size=9.5)
  c.arrow((29, 38), (36, 38))
  c.text(32.3, 39.6, 'write', size=9)
  c.arrow((36, 27.5), (29, 27.5))
  c.text(32.3, 29.1, 'read', size=9)
  _weights(c, 36, 24.5)
  return c


def _weights(c, left, bottom):
  """Draws the block-diagonal weights of two heads."""
  c.text(left + 12.5, 43.3, 'state: w1 of two heads', size=9)
  w, h = 12.5, 8.5
  for row in range(2):
    for column in range(2):
      on = row == column
      c.box(
        left + w * column,
        bottom + h * (1 - row),
        w,
        h,
        f'head {row}' if on else '0',
        fill=lib.PALE_AMBER if on else 'white',
        edge=lib.AMBER,
        round_by=0,
        size=10,
        color=lib.INK if on else lib.GREY,
      )
