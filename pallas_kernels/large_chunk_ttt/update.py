"""The last part of an update: from its sum over a chunk to the next weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Coefficients of the quintic Newton-Schulz iteration and its number of steps
# (Jordan et al. 2024, "Muon: an optimizer for hidden layers").
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_EPSILON = 1e-7


def row_norms(w: jax.Array) -> jax.Array:
  """Returns the L2 norm of each row, [..., R, C] -> [..., R, 1]; never 0."""
  squares = jnp.sum(jnp.square(w), axis=-1, keepdims=True)
  return jnp.sqrt(jnp.maximum(squares, jnp.finfo(w.dtype).tiny))


def add_update(
  w: jax.Array, update: jax.Array, norms: jax.Array, *, muon: bool
) -> jax.Array:
  """Returns w plus the update, with rows scaled back to their norms.

  An update of 0 leaves the weights as they are, up to rounding.

  Args:
    w: weights [..., R, C].
    update: sum over the tokens of a chunk, [..., R, C], in the same dtype.
    norms: `row_norms` of the initial weights.
    muon: orthogonalises the update (not the weights) first.
  """
  w += orthogonalize(update) if muon else update
  return w * (norms / row_norms(w))


def orthogonalize(x: jax.Array) -> jax.Array:
  """Moves all singular values of [..., R, C] near 1; 0 stays 0."""
  wide = x.shape[-2] <= x.shape[-1]
  x = x if wide else x.swapaxes(-1, -2)
  squares = jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True)
  tiny = jnp.finfo(x.dtype).tiny  # The gradient of a square root at 0 is inf.
  x /= jnp.sqrt(jnp.maximum(squares, tiny)) + _EPSILON
  a, b, c = _COEFFICIENTS
  for _ in range(_STEPS):
    gram = x @ x.swapaxes(-1, -2)
    x = a * x + (b * gram + c * gram @ gram) @ x
  return x if wide else x.swapaxes(-1, -2)
