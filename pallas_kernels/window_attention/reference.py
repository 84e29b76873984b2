"""Attention within windows in plain array operations: the definition."""

from __future__ import annotations

import jax
from jax import numpy as jnp

from pallas_kernels.types import Norm


def window_attention(
  qkv: jax.Array,
  q_norm: Norm,
  k_norm: Norm,
  cos: jax.Array,
  sin: jax.Array,
  *,
  heads: int,
  windows: int,
  stride: int,
  epsilon: float,
) -> jax.Array:
  """Implements `api.window_attention`; forms all scores."""
  batch, tokens, features = qkv.shape
  length, dim = cos.shape
  width = heads * dim
  wide = jnp.promote_types(qkv.dtype, cos.dtype)
  parts = jax.lax.split(qkv, [width] * 3 + [features - 3 * width], axis=2)

  def placed(x, norm):
    x = x.astype(wide)
    x -= x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x).mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + epsilon) * norm.scale + norm.bias
    # (a, b) -> (-b, a) for every pair.
    turned = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    x = x * cos[:, None] + turned * sin[:, None]
    return x.astype(qkv.dtype)

  total = jnp.zeros((batch, tokens, width), wide)
  count = jnp.zeros((tokens, 1), wide)
  for window in range(windows):
    at = slice(window * stride, window * stride + length)
    q, k, v = (x[:, at].reshape(batch, length, heads, dim) for x in parts[:3])
    logits = jnp.einsum(
      'nqhd,nkhd->nhqk',
      placed(q, q_norm),
      placed(k, k_norm),
      preferred_element_type=wide,
    )
    weights = jax.nn.softmax(logits * dim**-0.5, axis=-1).astype(qkv.dtype)
    out = jnp.einsum('nhqk,nkhd->nqhd', weights, v, preferred_element_type=wide)
    total = total.at[:, at].add(out.reshape(batch, length, width))
    count = count.at[at].add(1)
  return (total / jnp.maximum(count, 1)).astype(qkv.dtype)
