"""TTT-MLP backward on TPU, through the read: from d_out to d_q and the state.

With d for cotangents, w1', b1', w2', c2' the state after a mini-batch, and
out = q + scale x + bias, x = LN(a w2'^T + c2'), a = A(q w1' + b1'):

    d_y = r (scale d_out - x mean(scale d_out x))
    d_z = A'(z) * (d_y w2')         d_q = d_out + d_z w1'^T
    d_w1' += q^T d_z                d_b1' += sum d_z
    d_w2' += d_y^T a                d_c2' += sum d_y
"""

from __future__ import annotations

from typing import NamedTuple

import jax

from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import normalize
from pallas_kernels.tpu.inner_loss import normalize_backward
from pallas_kernels.tpu.window import Window
from pallas_kernels.ttt_mlp.tpu_replay import Residuals
from pallas_kernels.ttt_mlp.tpu_stages import add_to_first_layer
from pallas_kernels.ttt_mlp.tpu_stages import FACTOR
from pallas_kernels.ttt_mlp.tpu_stages import State
from pallas_kernels.ttt_mlp.tpu_stages import twice_gelu_slope
from pallas_kernels.types import Array
from pallas_kernels.types import Norm


class Read(NamedTuple):
  """The hidden layer of one pack at the queries of a mini-batch."""

  rows: jax.Array  # [R C, 128] queries
  a: jax.Array  # [R C, K]
  slope: jax.Array  # [R C, K]
  y: jax.Array  # [C, 128]


class ReadGradient(NamedTuple):
  """Operands of the products that end the backward pass of a read."""

  rows: jax.Array  # [R C, 128] queries
  a: jax.Array  # [R C, K]
  d_y: jax.Array  # [R C, 128]
  d_z: jax.Array  # [R C, K]


def hidden(window: Window, q: Array, residuals: Residuals) -> Read:
  """Returns the hidden layer of the queries, by the state after the batch."""
  tiling, p, after = window.tiling, window.p, window.m + 1
  packing, products = tiling.packing, tiling.products
  rows = packing.block_diagonal(window.read(q))
  z = packing.add_bias(
    products.times(rows, residuals.w1[after, p]), residuals.b1[after, p]
  )
  a, slope = twice_gelu_slope(z.astype(tiling.elementwise))
  a = a.astype(tiling.dtype)
  y = products.times_transposed(a, residuals.w2[after, p])
  y = packing.diagonal(y) + residuals.c2[after, :, window.lanes]
  return Read(rows, a, slope, y)


def gradient(
  window: Window,
  read: Read,
  d_out: Array,
  norm: Norm,
  residuals: Residuals,
  d_norm: Norm,
  d_state: State,
) -> ReadGradient:
  """Propagates d_out back to d_z."""
  tiling, p, after = window.tiling, window.p, window.m + 1
  packing = tiling.packing
  x, r = normalize(read.y, packing.mean, FACTOR)
  d_out = window.read(d_out).astype(tiling.wide)
  d_norm.bias[:, window.lanes] += column_sum(d_out)
  d_norm.scale[:, window.lanes] += column_sum(d_out * x)
  d_y = normalize_backward(
    norm.scale[:, window.lanes] * d_out, x, r, packing.mean
  )
  d_state.c2[:, window.lanes] += column_sum(d_y)
  d_y = packing.block_diagonal(d_y.astype(tiling.dtype))
  d_a = tiling.products.times(d_y, residuals.w2[after, p])
  d_z = d_a.astype(tiling.elementwise) * read.slope
  return ReadGradient(read.rows, read.a, d_y, d_z.astype(tiling.dtype))


def products(
  window: Window,
  read: ReadGradient,
  d_out: Array,
  residuals: Residuals,
  d_q: Array,
  d_state: State,
) -> None:
  """Adds to d_w1', d_b1', d_w2' and writes d_q."""
  tiling, p, after = window.tiling, window.p, window.m + 1
  assert p is not None  # The window is that of one pack.
  d_state.w2[p] += tiling.products.transposed_times(read.d_y, read.a)
  d_rows = tiling.products.times_transposed(read.d_z, residuals.w1[after, p])
  d_out = window.read(d_out).astype(tiling.wide)
  window.write(d_q, d_out + tiling.packing.diagonal(d_rows))
  add_to_first_layer(d_state, p, read.rows, read.d_z, tiling)
