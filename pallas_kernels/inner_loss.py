"""The inner loss of test-time training.

    l(W; k, v) = 1/2 || LN(f(k; W)) - (v - k) ||^2

LN normalises over the head dimension D with biased variance, the epsilon
inside the square root, and has a scale and a bias per head.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

EPSILON = 1e-8


def normalize(z: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Normalises the last axis to mean 0 and variance 1.

  Args:
    z: [..., D].

  Returns:
    (normalised z [..., D], reciprocal standard deviation [..., 1]).
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
