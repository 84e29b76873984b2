"""The inner loss of test-time training and its gradient by hand.

    l(W; k, v) = 1/2 || LN(f(k; W)) - (v - k) ||^2

LN normalises over the head dimension D with biased variance, the epsilon
inside the square root, and has a scale and a bias per head.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

EPSILON = 1e-8


def normalize(z: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns z over its last axis with mean 0, variance 1; and 1 / std.

  Args:
    z: [..., D].

  Returns:
    (normalised [..., D], reciprocal standard deviation [..., 1]).
  """
  centred = z - jnp.mean(z, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
  reciprocal = jax.lax.rsqrt(variance + EPSILON)
  return centred * reciprocal, reciprocal


def layer_norm(z: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
  """Returns LN(z) over the last axis; scale and bias broadcast to z."""
  return normalize(z)[0] * scale + bias


def token_loss(
  z: jax.Array,
  k: jax.Array,
  v: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
) -> jax.Array:
  """Returns the loss of each token, a sum over D: [..., D] -> [...]."""
  error = layer_norm(z, scale, bias) - (v - k)
  return 0.5 * jnp.sum(jnp.square(error), axis=-1)


def token_loss_gradient(
  z: jax.Array,
  k: jax.Array,
  v: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
) -> jax.Array:
  """Returns d token_loss / d z, [..., D], in closed form."""
  normal, reciprocal = normalize(z)
  d_normal = (normal * scale + bias - (v - k)) * scale
  mean = jnp.mean(d_normal, axis=-1, keepdims=True)
  slope = jnp.mean(d_normal * normal, axis=-1, keepdims=True)
  return (d_normal - mean - normal * slope) * reciprocal
