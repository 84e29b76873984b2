"""The inputs of the inner loop for some rows, and their gradients.

Arrays are float32 [rows, 128] with complete heads next to each other. The packs
of a token are stacked along the rows, so that each stage of the arithmetic has
enough rows to hide its latency. A sum over the features of a head is repeated
in all its lanes. Some sums are computed by the reductions of the vector unit,
others by the matrix unit, which would otherwise be idle.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import Packing
from pallas_kernels.tpu.products import Products
from pallas_kernels.ttt_inputs.xla import DEVIATION_EPSILON
from pallas_kernels.ttt_inputs.xla import SMALLEST_NORM


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

  def mean(self, x: jax.Array) -> jax.Array:
    """Returns the mean over each head's features, by reductions."""
    return self.packing.mean(x)

  def sum_per_head(self, x: jax.Array) -> jax.Array:
    """Returns the sum over each head's features, by the matrix unit."""
    head = lambda lane: jax.lax.div(lane, np.int32(self.packing.head_dim))
    return self._product(x, lambda i, j: head(i) == head(j))

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
    products = Products(self.dtype, self.wide)
    return (products.times if exact else products.times_parts)(x, matrix)


class Rows(NamedTuple):
  """Rows of q, k and v, or their cotangents."""

  q: jax.Array
  k: jax.Array
  v: jax.Array


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

  def rotate(self, x: jax.Array, units: Units) -> jax.Array:
    """Returns projections x, rotated."""
    return x * self.cos + units.swap_pairs(x, exact=True) * self.sin

  def rotate_back(self, d: jax.Array, units: Units) -> jax.Array:
    """Returns the cotangent of x, given that of `rotate(x)`."""
    return d * self.cos - units.swap_pairs(d) * self.sin


@dataclasses.dataclass(frozen=True)
class _UnitVectors:
  """Rotated rows divided by their norms.

  Attributes:
    unit: the result.
    inverse: one over the norm, or over `SMALLEST_NORM` if that is larger.
    clamped: whether the norm is below `SMALLEST_NORM`.
  """

  unit: jax.Array
  inverse: jax.Array
  clamped: jax.Array

  @classmethod
  def from_rows(
    cls, x: jax.Array, rotary: Rotary, units: Units
  ) -> _UnitVectors:
    x = rotary.rotate(x, units)
    squares = units.sum_per_head(x * x)
    inverse = jax.lax.rsqrt(jnp.maximum(squares, SMALLEST_NORM**2))
    return cls(x * inverse, inverse, squares < SMALLEST_NORM**2)

  def backward(self, d: jax.Array, rotary: Rotary, units: Units) -> jax.Array:
    """Returns the cotangent of the rows before the rotation."""
    along = units.sum_per_head(d * self.unit)
    along = jnp.where(self.clamped, 0, along)
    return rotary.rotate_back((d - self.unit * along) * self.inverse, units)


def _standardize(x, units):
  """Returns (centred rows, 1 / s, 1 / (s + epsilon)), s their deviation.

  1 / s is zero for constant rows, whose deviation has no gradient.
  """
  centred = x - units.mean(x)
  variance = units.mean(centred * centred) * units.unbiased
  varies = variance > 0
  variance = jnp.where(varies, variance, DEVIATION_EPSILON**2)
  reciprocal = jax.lax.rsqrt(variance)
  deviation = variance * reciprocal
  reciprocal = jnp.where(varies, reciprocal, 0)
  return centred, reciprocal, 1 / (deviation + DEVIATION_EPSILON)


def inputs(
  rows: Rows,
  rotary: Rotary,
  scale: jax.Array,
  bias: jax.Array,
  units: Units,
) -> Rows:
  """Returns q', k', v'; scale and bias are [rows, 128]."""
  q, k = (_UnitVectors.from_rows(x, rotary, units).unit for x in rows[:2])
  centred, _, inverse = _standardize(rows.v - k, units)
  return Rows(q, k, scale * (centred * inverse) + bias + k)


def gradients(
  rows: Rows,
  rotary: Rotary,
  scale: jax.Array,
  cotangents: Rows,
  units: Units,
) -> tuple[Rows, jax.Array]:
  """Returns the cotangents of the rows, and of the scale for each row.

  The cotangent of the bias is that of v', for each row.
  """
  q, k = (_UnitVectors.from_rows(x, rotary, units) for x in rows[:2])
  centred, reciprocal, inverse = _standardize(rows.v - k.unit, units)
  standard = centred * inverse
  d_standard = cotangents.v * scale
  # The part through the deviation is parallel to the centred rows.
  along = units.mean(d_standard * standard) * units.unbiased * reciprocal
  d_centred = d_standard * inverse - standard * along
  # Only the first part has a mean over features.
  d_v = d_centred - units.mean(d_centred)
  d_k = cotangents.k + cotangents.v - d_v
  return (
    Rows(
      q.backward(cotangents.q, rotary, units),
      k.backward(d_k, rotary, units),
      d_v,
    ),
    cotangents.v * standard,
  )


def _first_of_pair(shape):
  lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
  return (lane & 1) == 0
