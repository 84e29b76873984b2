"""Norm and rotary position of queries or keys for some rows, and gradients."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.tpu import rows as rows_lib
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.window_attention.tpu_tiling import HEAD_DIM
from pallas_kernels.window_attention.tpu_tiling import Tiling


class Gradients(NamedTuple):
  """Cotangents of rows, and of scale and bias for every row."""

  x: jax.Array
  scale: jax.Array
  bias: jax.Array


@dataclasses.dataclass(frozen=True)
class Part:
  """Norm and rotation of the queries or the keys of a window.

  Attributes:
    tiling: sizes.
    norms: scale and bias of the queries' norm and of the keys', [4, 128].
    number: 0 for queries, 1 for keys.
  """

  tiling: Tiling
  norms: Any
  number: int

  @property
  def rows_of_norms(self) -> tuple[int, int]:
    """Rows of scale and bias in `norms`."""
    return 2 * self.number, 2 * self.number + 1

  def placed(self, start: Any, x: jax.Array, table: jax.Array) -> jax.Array:
    """Returns rows after norm and rotation; the padding is that of zeros.

    Args:
      start: row of the window with which they begin.
      x: projections [rows, 128].
      table: cosines and sines of the rows, next to each other, [rows, 128].
    """
    standard, _ = self._standardize(start, x)
    scale, bias = self._weights()
    x = standard * scale + bias
    return _rotary(table).rotate(x, self.tiling.units)

  def gradients(
    self, d: jax.Array, start: Any, x: jax.Array, table: jax.Array
  ) -> Gradients:
    """Returns the cotangents of rows and norm.

    Args:
      d: cotangent of the result of `placed`.
      start: as for `placed`.
      x: as for `placed`.
      table: as for `placed`.
    """
    units = self.tiling.units
    standard, inverse = self._standardize(start, x)
    d = _rotary(table).rotate_back(d, units)
    d_standard = d * self._weights()[0]
    mean = units.mean_by_product
    d_x = d_standard - mean(d_standard) - standard * mean(d_standard * standard)
    return Gradients(d_x * inverse, d * standard, d)

  def _weights(self):
    return [self.norms[n : n + 1, :] for n in self.rows_of_norms]

  def _standardize(self, start, x):
    """Returns centred rows divided by their deviation, and its reciprocal."""
    tiling = self.tiling
    mean = tiling.units.mean_by_product
    x = tiling.before_padding(start, x).astype(tiling.wide)
    x = x - mean(x)
    inverse = jax.lax.rsqrt(mean(x * x) + tiling.epsilon)
    return x * inverse, inverse


def _rotary(table):
  return rows_lib.Rotary.for_packs(table[:, :HEAD_DIM], table[:, HEAD_DIM:], 1)


def own_lanes(head: int, rows: int) -> jax.Array:
  """Returns which lanes belong to a head, bool [rows, 128]."""
  return jax.lax.div(_lane(rows), jnp.int32(HEAD_DIM)) == head


def feature(rows: int) -> jax.Array:
  """Returns each lane's feature within its head, int32 [rows, 128]."""
  return jax.lax.rem(_lane(rows), jnp.int32(HEAD_DIM))


def _lane(rows):
  return jax.lax.broadcasted_iota(jnp.int32, (rows, LANES), 1)
