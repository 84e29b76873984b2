"""Norm and rotary position of queries or keys for some rows, and gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.tpu import rows as rows_lib
from pallas_kernels.tpu.packing import LANES


class Weights(NamedTuple):
  """Scale and bias of LayerNorm, [1, 128] each; the heads have the same."""

  scale: jax.Array
  bias: jax.Array


class Gradients(NamedTuple):
  """Cotangents of rows, and of scale and bias for every row."""

  x: jax.Array
  scale: jax.Array
  bias: jax.Array


def rotary(table: Any, head_dim: int) -> rows_lib.Rotary:
  """Returns the rotary embedding of rows of the kernels' table.

  Args:
    table: [rows, 128]: cosines [rows, D], sines [rows, D], and padding.
    head_dim: D.
  """
  cos, sin = table[:, :head_dim], table[:, head_dim : 2 * head_dim]
  return rows_lib.Rotary.for_packs(cos, sin, 1)


def placed(
  x: jax.Array,
  weights: Weights,
  position: rows_lib.Rotary,
  epsilon: float,
  units: rows_lib.Units,
) -> jax.Array:
  """Returns rows [rows, 128] after LayerNorm and rotation."""
  standard, _ = _standardize(x, epsilon, units)
  return position.rotate(standard * weights.scale + weights.bias, units)


def gradients(
  d: jax.Array,
  x: jax.Array,
  weights: Weights,
  position: rows_lib.Rotary,
  epsilon: float,
  units: rows_lib.Units,
) -> Gradients:
  """Returns the cotangents of the arguments of `placed`.

  Args:
    d: cotangent of the result.
    x: rows as given to `placed`.
    weights: weights of the norm.
    position: rotary embedding of the rows.
    epsilon: number added to the variance.
    units: operations across lanes.
  """
  standard, inverse = _standardize(x, epsilon, units)
  d = position.rotate_back(d, units)
  d_standard = d * weights.scale
  mean = lambda y: units.sum_per_head(y) * (1 / units.packing.head_dim)
  d_x = d_standard - mean(d_standard) - standard * mean(d_standard * standard)
  return Gradients(d_x * inverse, d * standard, d)


def own_lanes(head: int, rows: int, head_dim: int) -> jax.Array:
  """Returns which lanes belong to a head, bool [rows, 128]."""
  return jax.lax.div(_lane(rows), jnp.int32(head_dim)) == head


def feature(rows: int, head_dim: int) -> jax.Array:
  """Returns each lane's feature within its head, int32 [rows, 128]."""
  return jax.lax.rem(_lane(rows), jnp.int32(head_dim))


def _lane(rows):
  return jax.lax.broadcasted_iota(jnp.int32, (rows, LANES), 1)


def _standardize(x, epsilon, units):
  """Returns centred rows divided by their deviation, and its reciprocal."""
  mean = lambda y: units.sum_per_head(y) * (1 / units.packing.head_dim)
  x = x - mean(x)
  inverse = jax.lax.rsqrt(mean(x * x) + epsilon)
  return x * inverse, inverse
