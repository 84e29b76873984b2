"""The inputs of the inner loop for some rows, and their gradients.

Arrays are float32 [rows, 128] with whole heads side by side: the packs of a
token one below the other, so that each stage of the arithmetic has enough rows
to hide its latency. Sums over the features of a head are found in all its
lanes. Some are made by the vector unit's reductions and some by the matrix
unit, which would be idle, so that neither is waited for alone.
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
  """What the chip's units do across lanes.

  Attributes:
    packing: of the heads.
    dtype: of the tokens. Where that is bfloat16 the matrix unit takes float32
      in two parts: as exact as the result can show.
    wide: dtype of the rows.
  """

  packing: Packing
  dtype: jnp.dtype
  wide: jnp.dtype

  @property
  def unbiased(self) -> float:
    """D / (D - 1)."""
    return self.packing.head_dim / (self.packing.head_dim - 1)

  def mean(self, x: jax.Array) -> jax.Array:
    """Returns the mean over each head's features; by reductions."""
    return self.packing.mean(x)

  def total(self, x: jax.Array) -> jax.Array:
    """Returns the sum over each head's features; by the matrix unit."""
    head = lambda lane: jax.lax.div(lane, np.int32(self.packing.head_dim))
    return self._product(x, lambda i, j: head(i) == head(j))

  def swap_pairs(self, x: jax.Array, *, token: bool = False) -> jax.Array:
    """Exchanges the lanes 2i and 2i + 1; by the matrix unit.

    Args:
      x: the rows.
      token: whether they have no more bits than `dtype`.
    """
    return self._product(x, lambda i, j: i == (j ^ 1), token)

  def _product(self, x, choose, token=False):
    i, j = (
      jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis)
      for axis in (0, 1)
    )
    matrix = choose(i, j).astype(self.dtype)
    products = Products(self.dtype, self.wide)
    return (products.times if token else products.times_parts)(x, matrix)


class Rows(NamedTuple):
  """Rows of q, k and v, or their cotangents."""

  q: jax.Array
  k: jax.Array
  v: jax.Array


@dataclasses.dataclass(frozen=True)
class Rotary:
  """The turns of some tokens.

  Attributes:
    cos: [rows, 128].
    sin: [rows, 128], negative for the first feature of each pair.
  """

  cos: jax.Array
  sin: jax.Array

  @classmethod
  def make(cls, cos: jax.Array, sin: jax.Array, packs: int) -> Rotary:
    """Returns the turns of tokens [C, D] for rows of so many packs."""
    heads = LANES // cos.shape[1]
    cos, sin = (
      jnp.concatenate([x] * heads, axis=1) if heads > 1 else x
      for x in (cos, sin)
    )
    sin = jnp.where(_first_of_pair(sin.shape), -sin, sin)
    return cls(*(jnp.concatenate([x] * packs, axis=0) for x in (cos, sin)))

  def turn(self, x: jax.Array, units: Units) -> jax.Array:
    """Returns projections x, turned."""
    return x * self.cos + units.swap_pairs(x, token=True) * self.sin

  def turn_back(self, d: jax.Array, units: Units) -> jax.Array:
    """Returns the cotangent of what was turned into `d`'s."""
    return d * self.cos - units.swap_pairs(d) * self.sin


@dataclasses.dataclass(frozen=True)
class _Direction:
  """Turned rows over their norms.

  Attributes:
    unit: the result.
    inverse: one over the norm, or over the smallest one allowed.
    clamped: where the norm is below that.
  """

  unit: jax.Array
  inverse: jax.Array
  clamped: jax.Array

  @classmethod
  def of(cls, x: jax.Array, rotary: Rotary, units: Units) -> _Direction:
    x = rotary.turn(x, units)
    squares = units.total(x * x)
    inverse = jax.lax.rsqrt(jnp.maximum(squares, SMALLEST_NORM**2))
    return cls(x * inverse, inverse, squares < SMALLEST_NORM**2)

  def pull(self, d: jax.Array, rotary: Rotary, units: Units) -> jax.Array:
    """Returns the cotangent of the rows before they were turned."""
    along = units.total(d * self.unit)
    along = jnp.where(self.clamped, 0, along)
    return rotary.turn_back((d - self.unit * along) * self.inverse, units)


def _standardize(x, units):
  """Returns the centred rows, one over their deviation, one over + epsilon."""
  centred = x - units.mean(x)
  variance = units.mean(centred * centred) * units.unbiased
  varies = variance > 0
  variance = jnp.where(varies, variance, DEVIATION_EPSILON**2)
  over = jax.lax.rsqrt(variance)
  deviation = variance * over
  # Of a constant row the deviation has no gradient.
  pull = jnp.where(varies, over, 0)
  return centred, pull, 1 / (deviation + DEVIATION_EPSILON)


def inputs(
  rows: Rows,
  rotary: Rotary,
  scale: jax.Array,
  bias: jax.Array,
  units: Units,
) -> Rows:
  """Returns q', k', v'; scale and bias are [rows, 128]."""
  q, k = (_Direction.of(x, rotary, units).unit for x in rows[:2])
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
  q, k = (_Direction.of(x, rotary, units) for x in rows[:2])
  centred, pull, inverse = _standardize(rows.v - k.unit, units)
  standard = centred * inverse
  d_standard = cotangents.v * scale
  # The deviation's part, along what was centred.
  along = units.mean(d_standard * standard) * units.unbiased * pull
  d_centred = d_standard * inverse - standard * along
  # The deviation's gradient is along the centred rows: it has no mean.
  d_v = d_centred - units.mean(d_centred)
  d_k = cotangents.k + cotangents.v - d_v
  return (
    Rows(
      q.pull(cotangents.q, rotary, units),
      k.pull(d_k, rotary, units),
      d_v,
    ),
    cotangents.v * standard,
  )


def _first_of_pair(shape):
  lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
  return (lane & 1) == 0
