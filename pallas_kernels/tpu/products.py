"""Matrix products in a kernel: operands as wide as the tokens, float32 sums."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Products:
  """Products of 2-D arrays, named by their operands' layout.

  Attributes:
    dtype: dtype of the operands. bfloat16 takes one pass of the matrix unit,
      float32 as many as full precision needs.
    out: dtype of the result.
  """

  dtype: jnp.dtype
  out: jnp.dtype

  def times(self, a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a b: [I, J], [J, L] -> [I, L]."""
    return self._product(a, b, 1, 0)

  def times_parts(self, a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a b for float32 a; b is exact in `dtype`.

    With bfloat16 operands, a is split into two parts: 16 bits of its 24.
    """
    if self.dtype != jnp.bfloat16:
      return self.times(a, b)
    high = a.astype(self.dtype)
    low = (a - high.astype(self.out)).astype(self.dtype)
    return self.times(high, b) + self.times(low, b)

  def times_transposed(self, a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a b^T: [I, J], [L, J] -> [I, L]."""
    return self._product(a, b, 1, 1)

  def transposed_times(self, a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a^T b: [J, I], [J, L] -> [I, L]."""
    return self._product(a, b, 0, 0)

  def _product(self, a, b, axis_a, axis_b):
    narrow = self.dtype == jnp.bfloat16
    return jax.lax.dot_general(
      a.astype(self.dtype),
      b.astype(self.dtype),
      (((axis_a,), (axis_b,)), ((), ())),
      precision=None if narrow else jax.lax.Precision.HIGHEST,
      preferred_element_type=self.out,
    )
