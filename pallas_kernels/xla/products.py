"""Matrix products over leading batch axes, named by their operands' layout.

They are `dot_general` with the contracted axes named, instead of `@` with a
transposed operand: XLA on CPU copies such an operand, at the cost of half a
product.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def times(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns a b: [..., I, J], [..., J, L] -> [..., I, L]."""
  return _product(a, b, -1, -2)


def times_transposed(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns a b^T: [..., I, J], [..., L, J] -> [..., I, L]."""
  return _product(a, b, -1, -1)


def transposed_times(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns a^T b: [..., J, I], [..., J, L] -> [..., I, L]."""
  return _product(a, b, -2, -2)


def _product(a, b, axis_a, axis_b):
  """Contracts one of the last two axes of each; the others are batch."""
  rank = a.ndim
  batch = tuple(range(rank - 2))
  return jax.lax.dot_general(
    a, b, (((rank + axis_a,), (rank + axis_b,)), (batch, batch))
  )


def row_product(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the sum over the last axis of a times b, [..., J] -> [..., 1].

  Written as a product: XLA on CPU takes 20 times longer for the sum of `a * b`.
  """
  return jnp.einsum(
    '...j,...j->...', a, b, precision=jax.lax.Precision.HIGHEST
  )[..., None]
