"""Rows of tokens whose heads share the lanes: sums, norms, rotary positions.

Arrays are float32 [rows, 128] with complete heads next to each other, see
`pallas_kernels.tpu.packing`. A sum over the features of a head is repeated in
all its lanes.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import Packing
from pallas_kernels.tpu.products import Products


@dataclasses.dataclass(frozen=True)
class Units:
  """Operations across lanes, assigned to the chip's units.

  Attributes:
    packing: assignment of heads to lanes.
    dtype: dtype of the tokens. For bfloat16, products split float32 into two
      parts, which exceeds the precision of the result.
    wide: dtype of the rows.
  """

  packing: Packing
  dtype: jnp.dtype
  wide: jnp.dtype

  @property
  def unbiased(self) -> float:
    """Factor of the unbiased variance, D / (D - 1)."""
    return self.packing.head_dim / (self.packing.head_dim - 1)

  @property
  def products(self) -> Products:
    return Products(self.dtype, self.wide)

  def mean(self, x: jax.Array) -> jax.Array:
    """Returns the mean over each head's features, by reductions."""
    return self.packing.mean(x)

  def mean_by_product(self, x: jax.Array) -> jax.Array:
    """Returns `mean(x)`, by the matrix unit."""
    return self.packing.mean_by_product(x, self.products)

  def sum_per_head(self, x: jax.Array) -> jax.Array:
    """Returns the sum over each head's features, by the matrix unit."""
    return self._product(x, lambda i, j: self._head(i) == self._head(j))

  def sum_of_others(self, x: jax.Array) -> jax.Array:
    """Returns in a head's lanes the sum over the other heads' features."""
    return self._product(x, lambda i, j: self._head(i) != self._head(j))

  def _head(self, lane):
    return jax.lax.div(lane, np.int32(self.packing.head_dim))

  def swap_pairs(self, x: jax.Array, *, exact: bool = False) -> jax.Array:
    """Exchanges the lanes 2i and 2i + 1, by the matrix unit.

    Args:
      x: the rows.
      exact: whether `dtype` represents them exactly.
    """
    return self._product(x, lambda i, j: i == (j ^ 1), exact)

  def _product(self, x, select, exact=False):
    i, j = (
      jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis)
      for axis in (0, 1)
    )
    matrix = select(i, j).astype(self.dtype)
    products = self.products
    return (products.times if exact else products.times_parts)(x, matrix)


@dataclasses.dataclass(frozen=True)
class Rotary:
  """Rotary embedding of some tokens.

  Attributes:
    cos: [rows, 128].
    sin: [rows, 128], negative for the first feature of each pair.
  """

  cos: jax.Array
  sin: jax.Array

  @classmethod
  def for_packs(cls, cos: jax.Array, sin: jax.Array, packs: int) -> Rotary:
    """Returns the embedding of tokens [C, D] for the rows of `packs` packs."""
    heads = LANES // cos.shape[1]
    cos, sin = (
      jnp.concatenate([x] * heads, axis=1) if heads > 1 else x
      for x in (cos, sin)
    )
    sin = jnp.where(_first_of_pair(sin.shape), -sin, sin)
    return cls(*(jnp.concatenate([x] * packs, axis=0) for x in (cos, sin)))

  def rotate(
    self, x: jax.Array, units: Units, *, exact: bool = False
  ) -> jax.Array:
    """Returns rows x, rotated; `exact` as in `Units.swap_pairs`."""
    return x * self.cos + units.swap_pairs(x, exact=exact) * self.sin

  def rotate_back(self, d: jax.Array, units: Units) -> jax.Array:
    """Returns the cotangent of x, given that of `rotate(x)`."""
    return d * self.cos - units.swap_pairs(d) * self.sin


def _first_of_pair(shape):
  lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
  return (lane & 1) == 0
