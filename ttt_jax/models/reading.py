"""Storage order to the order in which a TTT layer reads, and back.

`TokenOrder.forward` and `TokenOrder.reverse` define the two readings as
permutations. Here they are slices and flips, which cost a copy; gathering
352 000 rows one by one (63 seconds) costs far more. Tokens behind the
sequence, which fill up the last device's part, stay behind it.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from ttt_jax import token_order


@dataclasses.dataclass(frozen=True)
class Reading:
  """One direction through a sequence.

  Attributes:
    order: of the tokens in storage.
    reverse: whether the video is read from its end.
  """

  order: token_order.TokenOrder
  reverse: bool

  def read(self, x: jax.Array) -> jax.Array:
    """[B, T', ...] in storage order -> in the order of reading, T' >= T."""
    return _move(self, True, x)

  def unread(self, y: jax.Array) -> jax.Array:
    """The inverse of `read`."""
    return _move(self, False, y)

  def _parts(self, x, read):
    """Frame 0 [B, P, ...] and all segments [B, S, stride, ...].

    Args:
      x: [B, T', ...].
      read: whether `x` is in the order of reading, else in that of storage.
    """
    order = self.order
    p, l = order.tokens_per_frame, order.text_length
    if read:
      first = x[:, l : l + p]
      body = jnp.concatenate([x[:, :l], x[:, l + p : order.length]], axis=1)
    else:
      first, body = x[:, :p], x[:, p : order.length]
    shape = x.shape[0], order.segments, order.stride, *x.shape[2:]
    return first, body.reshape(shape)

  def _backwards(self, first, body):
    """`_parts` of the video that runs backwards.

    There, a segment owns the frame that it shared, and shares the last of its
    own.
    """
    p, l = self.order.tokens_per_frame, self.order.text_length
    shared = jnp.concatenate([first[:, None], body[:, :-1, -p:]], axis=1)
    parts = [
        body[:, ::-1, :l],
        jnp.flip(body[:, :, l:-p], (1, 2)),
        jnp.flip(shared, (1, 2)),
    ]
    return jnp.flip(body[:, -1, -p:], 1), jnp.concatenate(parts, axis=2)


# A permutation's gradient is its inverse; autodiff would pad and add up the
# slices that it is made of.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _move(reading: Reading, forth: bool, x: jax.Array) -> jax.Array:
  """To the order of reading (`forth`) or back, [B, T', ...]."""
  order = reading.order
  first, body = reading._parts(x, not forth)
  if reading.reverse:
    first, body = reading._backwards(first, body)
  body = body.reshape(x.shape[0], -1, *x.shape[2:])
  parts = [first, body]
  if forth:
    l = order.text_length
    parts = [body[:, :l], first, body[:, l:]]
  return jnp.concatenate([*parts, x[:, order.length :]], axis=1)


def _move_forward(reading, forth, x):
  return _move(reading, forth, x), ()


def _move_backward(reading, forth, _, d_y):
  return (_move(reading, not forth, d_y),)


_move.defvjp(_move_forward, _move_backward)
