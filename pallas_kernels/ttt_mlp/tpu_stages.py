"""TTT-MLP on packs of heads: the parts that both TPU kernels share.

The kernels keep the factor 1/2 of GELU out of the hidden layer, where an
operation costs K / D times as much as on the features. With

    A(z) = 2 gelu(z) = z (1 + tanh u),    c2 = 2 b2,

one mini-batch of the inner loop, f = gelu(x w1 + b1) w2 + b2, reads

    z = k w1 + b1             a = A(z)              slope = A'(z)
    y = a w2^T + c2           g = dl/dy             (half of dl/df)
    f = eta g                 h = slope * (f w2)
    w1' = w1 - k^T h          b1' = b1 - sum h
    w2' = w2 - f^T a          c2' = c2 - 4 sum f
    out = q + scale LN(A(q w1' + b1') w2'^T + c2') + bias

where y is twice the network's output, so that its LayerNorm is the same with
4 times the epsilon, and r, u, x as in `tpu/inner_loss.py`, which also explains
why y has no mean over features.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.tiling import Tiling

# y is this many times the network's output.
FACTOR = 2.0
_RATE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _RATE


class State(NamedTuple):
  """Weights of the inner MLP in packs, as refs, values or shapes.

  w2 has the layout of w1. In HBM a B comes first and P counts all packs.
  """

  w1: jax.Array  # [P, 128, K]
  b1: jax.Array  # [P, R, K]
  w2: jax.Array  # [P, 128, K]
  c2: jax.Array  # [1, P 128]


def twice_gelu(z: jax.Array) -> jax.Array:
  """Returns A(z) = 2 gelu(z), tanh form."""
  return z * (1 + jnp.tanh(z * (_RATE + _CUBIC * (z * z))))


def twice_gelu_slope(z: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns A and A'."""
  square = z * z
  tanh = jnp.tanh(z * (_RATE + _CUBIC * square))
  a = z * (1 + tanh)
  return a, (1 + tanh) + a * (1 - tanh) * (_RATE + 3 * _CUBIC * square)


def twice_gelu_curvature(
  z: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns A, A' and A''."""
  square = z * z
  tanh = jnp.tanh(z * (_RATE + _CUBIC * square))
  slope_u = _RATE + 3 * _CUBIC * square
  slope_tanh = (1 + tanh) * (1 - tanh)  # d tanh / du.
  slope = slope_tanh * slope_u  # d tanh / dz.
  curvature = 2 * slope * (1 - tanh * (z * slope_u)) + (6 * _CUBIC) * (
    square * slope_tanh
  )
  return z * (1 + tanh), (1 + tanh) + z * slope, curvature


def add_to_first_layer(
  state: State,
  p: int,
  rows: jax.Array,
  h: jax.Array,
  tiling: Tiling,
  sign: int = 1,
) -> None:
  """Adds sign rows^T h to w1 and sign each head's sum of h to b1.

  Args:
    state: refs of weights or of their cotangents.
    p: index of the pack.
    rows: inputs of the first layer, [R C, 128].
    h: [R C, K].
    tiling: sizes.
    sign: 1 or -1.
  """
  left = [rows.T, tiling.packing.row_sums(tiling.dtype)]  # Both in one product.
  sums = tiling.products.times(jnp.concatenate(left, axis=0), h)
  state.w1[p] += sign * sums[:LANES]
  state.b1[p] += sign * sums[LANES : LANES + tiling.packing.heads]


def update_second_layer(
  state: State, p: int, a: jax.Array, f: jax.Array, tiling: Tiling
) -> None:
  """Subtracts the step of one mini-batch from w2 of pack p."""
  state.w2[p] -= tiling.products.transposed_times(f, a)


def update_state(
  state: State,
  p: int,
  rows: jax.Array,
  a: jax.Array,
  f: jax.Array,
  h: jax.Array,
  tiling: Tiling,
) -> None:
  """Updates w1, b1 and w2 of pack p; c2 has already been updated."""
  update_second_layer(state, p, a, f, tiling)
  add_to_first_layer(state, p, rows, h, tiling, sign=-1)
