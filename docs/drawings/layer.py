"""A TTT layer: each mini-batch trains the state once, then reads from it."""

from __future__ import annotations

import canvas as lib


def draw() -> lib.Canvas:
  """Returns the drawing."""
  c = lib.Canvas(48)
  for i in range(2):
    left = 9 + 27 * i
    _column(c, left, i + 1)
  _state(c, 4, 0)
  c.arrow((6.6, 22), (9, 22))
  c.arrow((61.6, 22), (64, 22), dashed=True)
  return c


def _state(c, x, index):
  c.box(
    x - 2.6,
    19.4,
    5.2,
    5.2,
    _subscript('W', index),
    fill=lib.PALE_AMBER,
    edge=lib.AMBER,
    size=12,
    round_by=2.6,
  )


def _subscript(letter, index):
  return f'{letter}{"₀₁₂"[index]}'


def _column(c, left, i):
  step, read, state = left + 6.5, left + 19, left + 23
  w = lambda j: _subscript('W', j)
  c.box(
    left,
    2.5,
    24,
    6.5,
    f'mini-batch {i}\n64 tokens',
    fill=lib.PALE_GREY,
    edge=lib.GREY,
  )
  c.arrow((step, 9), (step, 17))
  c.text(step + 1, 13, 'keys, values', align='left', size=10)
  c.box(
    left,
    17,
    13,
    10,
    'write: one\ngradient step\non the loss',
    fill=lib.PALE_GREEN,
    edge=lib.GREEN,
  )
  c.arrow((left + 13, 22), (state - 2.6, 22))
  _state(c, state, i)
  if i == 1:
    c.arrow((state + 2.6, 22), (left + 27, 22))
  c.arrow((read - 1.5, 9), (read - 1.5, 33.5))
  c.text(read - 0.7, 13, 'queries', align='left', size=10)
  c.arrow((state, 24.6), (state, 33.5))
  c.box(left + 8, 33.5, 18, 6, f'read: q + LN(f(q; {w(i)}))', size=9)
  c.arrow((left + 17, 39.5), (left + 17, 43.5))
  c.text(left + 17, 45.3, f'out {i}', size=11)
