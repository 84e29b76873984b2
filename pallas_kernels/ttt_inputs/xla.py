"""The inputs of the inner loop in plain array operations: the definition."""

from __future__ import annotations

import jax
from jax import numpy as jnp

# A vector below this norm has no direction and stays (almost) zero.
SMALLEST_NORM = 1e-12
# Added to the standard deviation of a target.
DEVIATION_EPSILON = 1e-8


def ttt_inputs(
  z: jax.Array,
  cos: jax.Array,
  sin: jax.Array,
  ln_scale: jax.Array,
  ln_bias: jax.Array,
  *,
  rate: float,
  length: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Implements `api.ttt_inputs`."""
  heads, dim = ln_scale.shape
  wide = jnp.promote_types(z.dtype, cos.dtype)
  width = heads * dim
  sizes = [width] * 3 + [heads, z.shape[2] - 3 * width - heads]
  # A split, because its gradients are concatenated; those of slices would be
  # padded to full size and added.
  *qkv, gates, _ = jax.lax.split(z, sizes, axis=2)
  q, k, v = (y.reshape(*y.shape[:2], heads, dim).astype(wide) for y in qkv)
  # Rotation and normalisation commute. Rotating first takes the rounded
  # projection as input, so that no wide copy of it is needed.
  q, k = (l2_normalize(rotate(y, cos, sin)) for y in (q, k))
  v = reconstruction_target(k, v, ln_scale, ln_bias)
  q, k, v = (y.astype(z.dtype).swapaxes(1, 2) for y in (q, k, v))
  eta = jax.nn.sigmoid(gates.astype(wide)) * rate
  # Padding does not train.
  valid = jnp.arange(z.shape[1])[:, None] < length
  eta = jnp.where(jnp.broadcast_to(valid, eta.shape), eta, 0)
  return q, k, v, eta.swapaxes(1, 2)


def rotate(y: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates the feature pairs (2i, 2i + 1) of y [B, T, H, D]."""
  swapped = jnp.stack([-y[..., 1::2], y[..., ::2]], axis=-1).reshape(y.shape)
  return y * cos[:, None] + swapped * sin[:, None]


def l2_normalize(y: jax.Array) -> jax.Array:
  """Returns y / max(|y|, `SMALLEST_NORM`), for each [D].

  The clamp is under the square root so that a zero vector has a finite
  gradient.
  """
  squares = jnp.square(y).sum(axis=-1, keepdims=True)
  return y * jax.lax.rsqrt(jnp.maximum(squares, SMALLEST_NORM**2))


def reconstruction_target(
  k: jax.Array, v: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
  """Returns the standardised (v - k), scaled and shifted, plus k.

  The kernels take the target in this form and subtract k again. The standard
  deviation is unbiased, with the epsilon outside of the square root.

  Args:
    k: normalised and rotated keys [B, T, H, D].
    v: values [B, T, H, D].
    scale: [H, D], shared with the LayerNorm of the inner loss.
    bias: [H, D], shared with the LayerNorm of the inner loss.

  Returns:
    [B, T, H, D].
  """
  difference = v - k
  centred = difference - difference.mean(axis=-1, keepdims=True)
  variance = jnp.square(centred).sum(axis=-1, keepdims=True) / (k.shape[-1] - 1)
  # Keeps the gradient of a constant row finite.
  deviation = jnp.sqrt(jnp.where(variance > 0, variance, DEVIATION_EPSILON**2))
  return scale * centred / (deviation + DEVIATION_EPSILON) + bias + k
