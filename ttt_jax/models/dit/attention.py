"""Self-attention within a segment (paper section 3.2).

Segment i attends to its own text, its own frames and one frame that it shares
with the previous segment. In storage order (see `ttt_jax.token_order`) these
form one contiguous window. Tokens of a shared frame are computed in two windows
and averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

import pallas_kernels
from pallas_kernels.types import Norm
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import heads as heads_lib
from ttt_jax.models import layers
from ttt_jax.models import softmax
from ttt_jax.models.dit import projections

# Name of the result of all windows in checkpoint policies.
RESULT = 'segment_attention'


def windows(
  x: jax.Array, order: token_order.TokenOrder, size: int
) -> jax.Array:
  """Cuts a sequence in storage order into overlapping windows.

  Args:
    x: Sequence [B, T', ...]; padding after its tokens is dropped.
    order: Order of the tokens.
    size: Tokens per window with padding of zeros, at least `order.window`.

  Returns:
    [S, B, size, ...].
  """
  p = order.tokens_per_frame
  body = x[:, p : order.length]
  body = body.reshape(x.shape[0], order.segments, -1, *x.shape[2:])
  shared = jnp.concatenate([x[:, None, :p], body[:, :-1, -p:]], axis=1)
  shape = (*body.shape[:2], size - order.window, *x.shape[2:])
  padding = jnp.zeros(shape, x.dtype)
  return jnp.concatenate([shared, body, padding], axis=2).swapaxes(0, 1)


def merge_windows(
  y: jax.Array, order: token_order.TokenOrder, length: int
) -> jax.Array:
  """Inverts `windows`; a shared frame becomes the mean of its two copies.

  Args:
    y: Windows [S, B, size, ...].
    order: Order of the tokens.
    length: Tokens of the result with padding of zeros, T'.

  Returns:
    [B, T', ...].
  """
  p = order.tokens_per_frame
  y = y.swapaxes(0, 1)
  shared, body = y[:, :, :p], y[:, :, p : order.window]
  last = jnp.concatenate(
    [(body[:, :-1, -p:] + shared[:, 1:]) / 2, body[:, -1:, -p:]], axis=1
  )
  body = jnp.concatenate([body[:, :, :-p], last], axis=2)
  body = body.reshape(y.shape[0], -1, *y.shape[3:])
  shape = (y.shape[0], length - order.length, *y.shape[3:])
  padding = jnp.zeros(shape, y.dtype)
  return jnp.concatenate([shared[:, 0], body, padding], axis=1)


def normalised_heads(
  z: jax.Array,
  heads: heads_lib.HeadPacking,
  norms: Sequence[projections.Weights],
  rotary: heads_lib.RotaryTable,
  epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns queries and keys, normalised and rotated, and values.

  Args:
    z: Projections of the tokens, [B, T, X] with q, k and v of all heads first.
    heads: Packing of the heads.
    norms: Scale and bias [D] of the LayerNorms on q and k.
    rotary: Table of the tokens from `heads.tile_over_lanes`.
    epsilon: Epsilon of the LayerNorms.

  Returns:
    [B, T, H * D] each, in z's dtype.
  """
  q, k, v = projections.split_projection(z, [heads.number * heads.dim] * 3)
  q, k = (
    heads.unpack(
      heads.rotate(
        heads.layer_norm(heads.pack(y), norm, epsilon), rotary
      ).astype(y.dtype)
    )
    for y, norm in zip((q, k), norms)
  )
  return q, k, v


class SegmentAttention(nn.Module):
  """Multi-head attention within overlapping windows.

  Attributes:
    num_heads: Number of heads, H.
    qk_norm_eps: Epsilon of the LayerNorms on queries and keys.
    dtype: Compute type; softmax and norms are float32.
    sharding_plan: Placement of sequences on the mesh.
    implementation: One of `softmax.WINDOW_IMPLEMENTATIONS`; None is the best
      one of the platform.
  """

  num_heads: int
  qk_norm_eps: float
  dtype: jnp.dtype
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()
  implementation: str | None = None

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    order: token_order.TokenOrder,
    rotary: heads_lib.RotaryTable,
  ) -> jax.Array:
    """Attends within windows.

    Args:
      x: Tokens [B, T', M] in storage order.
      order: Order of the tokens.
      rotary: Rotary table of the tokens of a window, [order.window, D] each.

    Returns:
      [B, T', M].
    """
    m = x.shape[-1]
    d = m // self.num_heads
    weights = [layers.DenseWeights(m, name=name)(m) for name in 'qkv']
    norms = [layers.NormWeights(d, name=f'{name}_norm')() for name in 'qk']
    heads = heads_lib.HeadPacking(self.num_heads // self.sharding_plan.sp, d)
    implementation = softmax.choose_for_windows(
      self.implementation,
      self.sharding_plan.platform,
      d,
      order.window,
      order.segments,
      order.stride,
      self.dtype,
    )
    # The backward pass computes everything again but the results of kernels.
    recompute = functools.partial(
      jax.checkpoint,
      prevent_cse=False,
      policy=jax.checkpoint_policies.save_only_these_names(
        softmax.RESULT, softmax.LOG_SUMS
      ),
    )

    def in_sequence(z, norms, rotary):
      # Only one score matrix exists at a time. Memory then does not grow with
      # the number of segments, and on a CPU the work fits into its cache.
      size = softmax.padded(order.window, implementation)
      padding = ((0, size - order.window), (0, 0))
      cos, sin = (jnp.pad(table, padding) for table in rotary)
      rotary = heads.tile_over_lanes((cos, sin))

      @recompute
      def attend(z, norms):
        qkv = normalised_heads(z, heads, norms, rotary, self.qk_norm_eps)
        return softmax.attend(*qkv, d, order.window, implementation)

      out = jax.lax.map(lambda z: attend(z, norms), windows(z, order, size))
      out = checkpoint_name(out, RESULT)
      # Averaging before the output projection equals averaging after it.
      return merge_windows(out, order, z.shape[1])

    @recompute
    def at_once(z, norms, rotary):
      q_norm, k_norm = (Norm(*norm) for norm in norms)
      cos, sin = rotary
      return pallas_kernels.window_attention(
        z,
        q_norm,
        k_norm,
        cos,
        sin,
        heads=heads.number,
        windows=order.segments,
        stride=order.stride,
        epsilon=self.qk_norm_eps,
        implementation=implementation,
      )

    def all_windows(z, _, shared):
      if implementation == 'pallas_tpu':
        return at_once(z, *shared), ()
      return in_sequence(z, *shared), ()

    z = projections.qkv_projection(
      x.astype(self.dtype), weights, self.sharding_plan
    )
    out, _ = self.sharding_plan.by_heads(all_windows, z, shared=(norms, rotary))
    return projections.output_projection(
      out, layers.DenseWeights(m, name='o')(m)
    )
