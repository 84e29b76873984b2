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

from pallas_kernels.tpu import rows as rows_lib
from pallas_kernels.ttt_inputs.xla import DEVIATION_EPSILON
from pallas_kernels.ttt_inputs.xla import SMALLEST_NORM


class Rows(NamedTuple):
  """Rows of q, k and v, or their cotangents."""

  q: jax.Array
  k: jax.Array
  v: jax.Array


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
    cls, x: jax.Array, rotary: rows_lib.Rotary, units: rows_lib.Units
  ) -> _UnitVectors:
    x = rotary.rotate(x, units, exact=True)
    squares = units.sum_per_head(x * x)
    inverse = jax.lax.rsqrt(jnp.maximum(squares, SMALLEST_NORM**2))
    return cls(x * inverse, inverse, squares < SMALLEST_NORM**2)

  def backward(
    self, d: jax.Array, rotary: rows_lib.Rotary, units: rows_lib.Units
  ) -> jax.Array:
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
  rotary: rows_lib.Rotary,
  scale: jax.Array,
  bias: jax.Array,
  units: rows_lib.Units,
) -> Rows:
  """Returns q', k', v'; scale and bias are [rows, 128]."""
  q, k = (_UnitVectors.from_rows(x, rotary, units).unit for x in rows[:2])
  centred, _, inverse = _standardize(rows.v - k, units)
  return Rows(q, k, scale * (centred * inverse) + bias + k)


def gradients(
  rows: Rows,
  rotary: rows_lib.Rotary,
  scale: jax.Array,
  cotangents: Rows,
  units: rows_lib.Units,
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
