"""TTT-MLP backward on TPU, through the update: to d_k, d_v, d_eta, the state.

With d for cotangents, w1', b1', w2', c2' the state after a mini-batch and
w1' = w1 - k^T h, w2' = w2 - f^T a, h = slope * (f w2), f = eta g:

    d_h = -e,   e = k d_w1' + d_b1'
    d_f = -(a d_w2'^T + (slope * e) w2^T + 4 d_c2')
    d_eta = sum g d_f               d_g = eta d_f
    d_y, d_error from d_g           (`tpu/inner_loss.py`)
    d_z = slope * (d_y w2 - f d_w2') - A''(z) * (f w2) * e
    d_v = -d_error                  d_k = d_error + d_z w1^T - h d_w1'^T
    d_w1 = d_w1' + k^T d_z          d_w2 = d_w2' + d_y^T a - f^T (slope * e)
    d_b1 = d_b1' + sum d_z          d_c2 = d_c2' + sum d_y

A sum of products is written as one product of concatenated operands: the
matrix unit adds.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import inner_gradient_backward
from pallas_kernels.tpu.inner_loss import InnerGradient
from pallas_kernels.tpu.inner_loss import norm_lanes
from pallas_kernels.tpu.window import Window
from pallas_kernels.ttt_mlp.tpu_replay import Residuals
from pallas_kernels.ttt_mlp.tpu_stages import add_to_first_layer
from pallas_kernels.ttt_mlp.tpu_stages import State
from pallas_kernels.types import Array
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens


class StepGradient(NamedTuple):
  """Cotangents at the step of the weights."""

  rows: jax.Array  # [R C, 128] keys
  d_w1: jax.Array  # [128, K] of the state after, as an operand
  d_w2: jax.Array  # [128, K]
  slope_e: jax.Array  # [R C, K] slope * e
  curved_e: jax.Array  # [R C, K] A''(z) * (f w2) * e
  d_f: jax.Array  # [C, 128]


class HiddenGradient(NamedTuple):
  """Operands of the products that end the backward pass of an update."""

  d_step_size: jax.Array  # [C, 128], its sum over features is d_eta
  f: jax.Array  # [R C, 128], negative
  d_y: jax.Array  # [R C, 128]
  d_z: jax.Array  # [R C, K]
  d_keys: jax.Array  # [C, 128] through the inner loss's target


def step(
  window: Window, k: Array, residuals: Residuals, d_state: State
) -> StepGradient:
  """Propagates d_w1', d_b1', d_w2', d_c2' back to d_f."""
  tiling, p, m = window.tiling, window.p, window.m
  packing, products = tiling.packing, tiling.products
  d_w1, d_w2 = (d[p].astype(tiling.dtype) for d in (d_state.w1, d_state.w2))
  rows = packing.block_diagonal(window.read(k))
  e = packing.add_bias(products.times(rows, d_w1), d_state.b1[p])
  e = e.astype(tiling.elementwise)
  slope_e = (e * residuals.slope[m, p].astype(e.dtype)).astype(tiling.dtype)
  curved_e = e * residuals.curved[m, p].astype(e.dtype)
  d_f = products.times_transposed(
    jnp.concatenate([residuals.a[m, p], slope_e], axis=1),
    jnp.concatenate([d_w2, residuals.w2[m, p]], axis=1),
  )
  d_f = -(packing.diagonal(d_f) + 4 * d_state.c2[:, window.lanes])
  return StepGradient(rows, d_w1, d_w2, slope_e, curved_e, d_f)


def gradient(
  window: Window,
  step: StepGradient,
  tokens: Tokens,
  step_size: Array,
  norm: Norm,
  residuals: Residuals,
  d_tokens: Tokens,
  d_norm: Norm,
  d_state: State,
) -> HiddenGradient:
  """Propagates d_f through the inner gradient back to d_z; writes d_v."""
  tiling, p, m = window.tiling, window.p, window.m
  packing = tiling.packing
  gradient = InnerGradient(*(ref[m, p] for ref in residuals.gradient))
  eta = step_size[window.rows, window.lanes]
  k, v = (window.read(ref).astype(tiling.wide) for ref in tokens[1:3])
  d = inner_gradient_backward(
    eta * step.d_f, gradient, k, v, norm_lanes(norm, window.lanes), packing.mean
  )
  window.write(d_tokens.v, -d.d_error)
  for ref, part in zip(d_norm, d.d_norm):
    ref[:, window.lanes] += part
  d_state.c2[:, window.lanes] += column_sum(d.d_y)

  d_y = packing.block_diagonal(d.d_y.astype(tiling.dtype))
  f = packing.block_diagonal((-(eta * gradient.g)).astype(tiling.dtype))
  d_a = tiling.products.times(
    jnp.concatenate([d_y, f], axis=1),
    jnp.concatenate([residuals.w2[m, p], step.d_w2], axis=0),
  ).astype(tiling.elementwise)
  d_z = d_a * residuals.slope[m, p].astype(d_a.dtype) - step.curved_e
  return HiddenGradient(
    gradient.g * step.d_f, f, d_y, d_z.astype(tiling.dtype), d.d_error
  )


def products(
  window: Window,
  step: StepGradient,
  hidden: HiddenGradient,
  residuals: Residuals,
  d_k: Array,
  d_state: State,
) -> None:
  """Adds to d_w1, d_b1, d_w2 and writes d_k."""
  tiling, p, m = window.tiling, window.p, window.m
  assert p is not None  # The window is that of one pack.
  d_state.w2[p] += tiling.products.transposed_times(
    jnp.concatenate([hidden.d_y, hidden.f], axis=0),
    jnp.concatenate([residuals.a[m, p], step.slope_e], axis=0),
  )
  d_rows = tiling.products.times_transposed(
    jnp.concatenate([hidden.d_z, -residuals.h[m, p]], axis=1),
    jnp.concatenate([residuals.w1[m, p], step.d_w1], axis=1),
  )
  window.write(d_k, tiling.packing.diagonal(d_rows) + hidden.d_keys)
  add_to_first_layer(d_state, p, step.rows, hidden.d_z, tiling)
