"""Projections to and from heads that are split over devices.

Arrays between a projection and the all-to-all are [sp, B, T, X]: first the
device that will own the heads, last its features. The projection writes them
in this order and the one on the way back reads them so; nothing is copied to
make blocks that can be sent (the TPU compiler's program has no such copy).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ttt_jax import sharding
from ttt_jax.models import layers

Weights = tuple[jax.Array, jax.Array]
_LANES = 128


def project(
  x: jax.Array, weights: Sequence[Weights], layout: sharding.Layout
) -> jax.Array:
  """Several projections to heads as one product.

  Args:
    x: [B, T, M].
    weights: kernel [M, H * n] and bias [H * n] of each, n features a head.
    layout: which splits the heads.

  Returns:
    [sp, B, T, X], X the sum of H * n / sp, on TPUs up to whole lanes; `split`
    takes it apart.
  """
  m, sp = x.shape[-1], layout.sp
  kernel = jnp.concatenate(
    [kernel.reshape(m, sp, -1) for kernel, _ in weights], axis=-1
  )
  bias = jnp.concatenate([bias.reshape(sp, -1) for _, bias in weights], axis=-1)
  if layout.platform == 'tpu':
    fill = -bias.shape[-1] % _LANES
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, fill)))
    bias = jnp.pad(bias, ((0, 0), (0, fill)))
  return layers.affine('btm,mpx->pbtx', x, kernel, bias)


def split(z: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
  """[b, T, X] -> arrays of the sizes, [b, T, size] each; drops what is left."""
  rest = z.shape[-1] - sum(sizes)
  # Not slices: the gradients of a split are joined, those of slices padded to
  # the whole and added up.
  return jax.lax.split(z, [*sizes, rest], axis=2)[: len(sizes)]


def collect(y: jax.Array, weights: Weights) -> jax.Array:
  """Projects [sp, B, T, H * n / sp] from heads to [B, T, M]."""
  kernel, bias = weights
  kernel = kernel.reshape(y.shape[0], y.shape[-1], -1)
  return layers.affine('pbtx,pxm->btm', y, kernel, bias)


def layer_norm(y: jax.Array, weights: Weights, epsilon: float) -> jax.Array:
  """LayerNorm over all heads of [sp, B, T, X], float32 or better."""
  scale, bias = (w.reshape(y.shape[0], 1, 1, y.shape[-1]) for w in weights)
  y = y.astype(jnp.promote_types(y.dtype, scale.dtype))
  y -= y.mean(axis=(0, 3), keepdims=True)
  variance = jnp.square(y).mean(axis=(0, 3), keepdims=True)
  return y * jax.lax.rsqrt(variance + epsilon) * scale + bias
