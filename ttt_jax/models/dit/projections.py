"""Projections to and from heads that are split over devices.

Arrays between a projection and the all-to-all are [sp, B, T, X]: the first axis
is the device that will own the heads, the last one its features. The projection
to heads writes this order and the output projection reads it, so no copy is
needed to form the blocks that are sent (the TPU compiler inserts none).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ttt_jax import sharding
from ttt_jax.models import layers

Weights = tuple[jax.Array, jax.Array]
_LANES = 128


def qkv_projection(
  x: jax.Array, weights: Sequence[Weights], sharding_plan: sharding.ShardingPlan
) -> jax.Array:
  """Computes several projections to heads as one product.

  Args:
    x: Tokens [B, T, M].
    weights: Kernel [M, H * n] and bias [H * n] of each projection to n features
      per head.
    sharding_plan: Plan that splits the heads.

  Returns:
    [sp, B, T, X] for `split_projection`; X is the sum of H * n / sp, on TPUs
    rounded up to full lanes.
  """
  m, sp = x.shape[-1], sharding_plan.sp
  kernel = jnp.concatenate(
    [kernel.reshape(m, sp, -1) for kernel, _ in weights], axis=-1
  )
  bias = jnp.concatenate([bias.reshape(sp, -1) for _, bias in weights], axis=-1)
  if sharding_plan.platform == 'tpu':
    fill = -bias.shape[-1] % _LANES
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, fill)))
    bias = jnp.pad(bias, ((0, 0), (0, fill)))
  return layers.affine('btm,mpx->pbtx', x, kernel, bias)


def gate_projection(
  x: jax.Array, weights: Weights, sharding_plan: sharding.ShardingPlan
) -> jax.Array:
  """Computes a projection to heads that are not sent: [sp, B, T, X].

  Its result fits that of `ShardingPlan.by_heads` for as many features per head.

  Args:
    x: Tokens [B, T, M].
    weights: Kernel [M, H * n] and bias [H * n].
    sharding_plan: Plan that splits the heads.
  """
  kernel, bias = weights
  sp = sharding_plan.sp
  kernel = kernel.reshape(x.shape[-1], sp, -1)
  return layers.affine('btm,mpx->pbtx', x, kernel, bias.reshape(sp, -1))


def split_projection(z: jax.Array, sizes: Sequence[int]) -> Sequence[jax.Array]:
  """Splits [b, T, X] into [b, T, size] for each size; drops the remainder."""
  remainder = z.shape[-1] - sum(sizes)
  # Not slices: gradients of a split are concatenated, gradients of slices are
  # padded to the full size and added.
  return jax.lax.split(z, [*sizes, remainder], axis=2)[: len(sizes)]


def output_projection(y: jax.Array, weights: Weights) -> jax.Array:
  """Projects heads [sp, B, T, H * n / sp] to tokens [B, T, M]."""
  kernel, bias = weights
  kernel = kernel.reshape(y.shape[0], y.shape[-1], -1)
  return layers.affine('pbtx,pxm->btm', y, kernel, bias)


def layer_norm(y: jax.Array, weights: Weights, epsilon: float) -> jax.Array:
  """Applies LayerNorm over all heads of [sp, B, T, X], in float32 or wider."""
  scale, bias = (w.reshape(y.shape[0], 1, 1, y.shape[-1]) for w in weights)
  y = y.astype(jnp.promote_types(y.dtype, scale.dtype))
  y -= y.mean(axis=(0, 3), keepdims=True)
  variance = jnp.square(y).mean(axis=(0, 3), keepdims=True)
  return y * jax.lax.rsqrt(variance + epsilon) * scale + bias
