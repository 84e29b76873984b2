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
  length: int,
  epsilon: float,
) -> jax.Array:
  """Implements `api.window_attention`; forms all scores."""
  windows, tokens, features = qkv.shape
  dim = cos.shape[1]
  width = heads * dim
  wide = jnp.promote_types(qkv.dtype, cos.dtype)
  parts = jax.lax.split(qkv, [width] * 3 + [features - 3 * width], axis=2)
  q, k, v = (x.reshape(windows, tokens, heads, dim) for x in parts[:3])

  def placed(x, norm):
    x = x.astype(wide)
    x -= x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x).mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + epsilon) * norm.scale + norm.bias
    # (a, b) -> (-b, a) for every pair.
    turned = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    x = x * cos[:, None] + turned * sin[:, None]
    return x.astype(qkv.dtype)

  logits = jnp.einsum(
    'nqhd,nkhd->nhqk',
    placed(q, q_norm),
    placed(k, k_norm)[:, :length],
    preferred_element_type=wide,
  )
  weights = jax.nn.softmax(logits * dim**-0.5, axis=-1).astype(qkv.dtype)
  out = jnp.einsum(
    'nhqk,nkhd->nqhd', weights, v[:, :length], preferred_element_type=wide
  )
  is_token = jnp.arange(tokens)[:, None] < length
  return jnp.where(
    is_token, out.astype(qkv.dtype).reshape(windows, tokens, width), 0
  )
