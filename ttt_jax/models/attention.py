"""Self-attention that stays inside a segment (paper section 3.2).

Segment i sees its own text, its own frames and one frame that it shares with
the segment before. In storage order (see `ttt_jax.token_order`) that is one
contiguous window. Tokens of a shared frame are computed in two windows and
averaged.
"""

from __future__ import annotations

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax import token_order
from ttt_jax.models import layers
from ttt_jax.models import rope


def windows(x: jax.Array, order: token_order.TokenOrder) -> jax.Array:
  """[B, T, ...] in storage order -> overlapping [B, S, window, ...]."""
  p = order.tokens_per_frame
  body = x[:, p:].reshape(x.shape[0], order.segments, -1, *x.shape[2:])
  shared = jnp.concatenate([x[:, None, :p], body[:, :-1, -p:]], axis=1)
  return jnp.concatenate([shared, body], axis=2)


def merge_windows(y: jax.Array, order: token_order.TokenOrder) -> jax.Array:
  """The inverse of `windows`; shared frames become the mean of the two."""
  p = order.tokens_per_frame
  shared, body = y[:, :, :p], y[:, :, p:]
  last = jnp.concatenate(
      [(body[:, :-1, -p:] + shared[:, 1:]) / 2, body[:, -1:, -p:]], axis=1
  )
  body = jnp.concatenate([body[:, :, :-p], last], axis=2)
  body = body.reshape(y.shape[0], -1, *y.shape[3:])
  return jnp.concatenate([shared[:, 0], body], axis=1)


class SegmentAttention(nn.Module):
  """Multi-head attention within overlapping windows.

  Attributes:
    num_heads: H.
    qk_norm_eps: epsilon of the LayerNorms on queries and keys.
    rope_theta: base of the rotary frequencies.
    dtype: compute type; softmax and norms are float32.
  """

  num_heads: int
  qk_norm_eps: float
  rope_theta: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, order: token_order.TokenOrder) -> jax.Array:
    """[B, T, M] in storage order -> [B, T, M]."""
    b, t, m = x.shape
    d = m // self.num_heads

    def heads(name):
      y = layers.Dense(m, dtype=self.dtype, name=name)(x)
      return y.reshape(b, t, self.num_heads, d)

    def norm(y, name):
      y = layers.LayerNorm(epsilon=self.qk_norm_eps, name=name)(y)
      return y.astype(self.dtype)

    angles = rope.rotary_angles(order.window_positions, d, self.rope_theta)

    # One window after the other: their score matrices never exist together,
    # and the backward pass makes them again. Both keep memory flat in the
    # number of segments and, on a CPU, the work inside its cache.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def attend(qkv):
      q, k, v = qkv
      return jax.nn.dot_product_attention(
          rope.rotate(q, angles), rope.rotate(k, angles), v
      )

    qkv = (norm(heads('q'), 'q_norm'), norm(heads('k'), 'k_norm'), heads('v'))
    qkv = tuple(windows(y, order).swapaxes(0, 1) for y in qkv)
    out = jax.lax.map(attend, qkv).swapaxes(0, 1)
    # Averaging before the output projection equals averaging behind it.
    out = out.reshape(b, order.segments, order.window, m)
    out = merge_windows(out, order)
    return layers.Dense(m, dtype=self.dtype, name='o')(out)
