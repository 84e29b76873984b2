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

from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import heads as heads_lib
from ttt_jax.models import layers
from ttt_jax.models import softmax
from ttt_jax.models.dit import projections


def windows(
  x: jax.Array, order: token_order.TokenOrder, size: int
) -> jax.Array:
  """Cuts a sequence in storage order into overlapping windows.

  Args:
    x: [B, T', ...]; tokens behind the sequence are left out.
    order: of the tokens.
    size: tokens of a window, at least `order.window`; zeros fill it up.

  Returns:
    [S, B, size, ...].
  """
  p = order.tokens_per_frame
  body = x[:, p : order.length]
  body = body.reshape(x.shape[0], order.segments, -1, *x.shape[2:])
  shared = jnp.concatenate([x[:, None, :p], body[:, :-1, -p:]], axis=1)
  fill = size - order.window
  fill = jnp.zeros((*body.shape[:2], fill, *x.shape[2:]), x.dtype)
  return jnp.concatenate([shared, body, fill], axis=2).swapaxes(0, 1)


def merge_windows(
  y: jax.Array, order: token_order.TokenOrder, length: int
) -> jax.Array:
  """The inverse of `windows`; shared frames become the mean of the two.

  Args:
    y: [S, B, size, ...].
    order: of the tokens.
    length: T' of the result [B, T', ...]; zeros fill it up.
  """
  p = order.tokens_per_frame
  y = y.swapaxes(0, 1)
  shared, body = y[:, :, :p], y[:, :, p : order.window]
  last = jnp.concatenate(
    [(body[:, :-1, -p:] + shared[:, 1:]) / 2, body[:, -1:, -p:]], axis=1
  )
  body = jnp.concatenate([body[:, :, :-p], last], axis=2)
  body = body.reshape(y.shape[0], -1, *y.shape[3:])
  fill = jnp.zeros((y.shape[0], length - order.length, *y.shape[3:]), y.dtype)
  return jnp.concatenate([shared[:, 0], body, fill], axis=1)


class SegmentAttention(nn.Module):
  """Multi-head attention within overlapping windows.

  Attributes:
    num_heads: H.
    qk_norm_eps: epsilon of the LayerNorms on queries and keys.
    dtype: compute type; softmax and norms are float32.
    layout: of the sequence on the mesh.
    implementation: of the softmax attention, see `softmax.attend`.
  """

  num_heads: int
  qk_norm_eps: float
  dtype: jnp.dtype
  layout: sharding.Layout = sharding.Layout()
  implementation: str | None = None

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    order: token_order.TokenOrder,
    turns: heads_lib.Turns,
  ) -> jax.Array:
    """Attends within windows.

    Args:
      x: [B, T', M] in storage order.
      order: of its tokens.
      turns: of the tokens of a window, [order.window, D] each.

    Returns:
      [B, T', M].
    """
    m = x.shape[-1]
    d = m // self.num_heads
    weights = [layers.DenseWeights(m, name=name)(m) for name in 'qkv']
    norms = [layers.NormWeights(d, name=f'{name}_norm')() for name in 'qk']
    implementation = softmax.choose(self.implementation, self.layout.platform)
    size = softmax.padded(order.window, implementation)
    fill = ((0, size - order.window), (0, 0))
    turns = tuple(jnp.pad(table, fill) for table in turns)

    def all_windows(z, _, shared):
      norms, turns = shared
      width = m // self.layout.sp
      heads = heads_lib.Heads(width // d, d)
      turns = heads.spread(turns)

      # One window after the other: their score matrices never exist together,
      # and the backward pass makes them again. Both keep memory flat in the
      # number of segments and, on a CPU, the work inside its cache. Where
      # there are no score matrices (splash), the result and its norms stay.
      @functools.partial(
        jax.checkpoint,
        prevent_cse=False,
        policy=jax.checkpoint_policies.save_only_these_names(softmax.RESULT),
      )
      def attend(z, norms):
        q, k, v = projections.split(z, [width] * 3)
        q, k = (
          heads.rotate(
            heads.layer_norm(heads.view(y), norm, self.qk_norm_eps), turns
          ).astype(y.dtype)
          for y, norm in zip((q, k), norms)
        )
        q, k = heads.tokens(q), heads.tokens(k)
        return softmax.attend(q, k, v, d, order.window, implementation)

      out = jax.lax.map(lambda z: attend(z, norms), windows(z, order, size))
      # Averaging before the output projection equals averaging behind it.
      return merge_windows(out, order, z.shape[1]), ()

    z = projections.project(x.astype(self.dtype), weights, self.layout)
    out, _ = self.layout.by_heads(all_windows, z, shared=(norms, turns))
    return projections.collect(out, layers.DenseWeights(m, name='o')(m))
