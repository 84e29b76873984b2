"""Storage order to the order in which a TTT layer reads, and back.

`TokenOrder.forward` and `TokenOrder.reverse` define the two readings as
permutations. Here they are slices and flips, which cost a copy; gathering
352 000 rows one by one (63 seconds) costs far more. Tokens behind the
sequence, which fill up the last device's part, stay behind it.
"""

from __future__ import annotations

import dataclasses

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
    if self.reverse:
      x = self._reversed(x)
    return _swap(x, self.order.tokens_per_frame, self.order.text_length)

  def unread(self, y: jax.Array) -> jax.Array:
    """The inverse of `read`."""
    y = _swap(y, self.order.text_length, self.order.tokens_per_frame)
    return self._reversed(y) if self.reverse else y

  def _reversed(self, x):
    """Storage order of a video -> of the video that runs backwards."""
    order, (b, _, *features) = self.order, x.shape
    p, l, s = order.tokens_per_frame, order.text_length, order.segments
    body = x[:, p : order.length].reshape(b, s, order.stride, *features)
    frames = body[:, :, l:].reshape(b, -1, *features)
    video = jnp.concatenate([x[:, :p], frames], axis=1)[:, ::-1]
    frames = video[:, p:].reshape(b, s, -1, *features)
    body = jnp.concatenate([body[:, ::-1, :l], frames], axis=2)
    body = body.reshape(b, -1, *features)
    return jnp.concatenate(
        [video[:, :p], body, x[:, order.length :]], axis=1
    )


def _swap(x, first, second):
  """Swaps the first tokens with the `second` ones behind them, in place."""
  both = jnp.concatenate([x[:, first : first + second], x[:, :first]], axis=1)
  return jax.lax.dynamic_update_slice_in_dim(x, both, 0, axis=1)
