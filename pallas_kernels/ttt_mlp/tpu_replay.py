"""Replays a group of mini-batches and keeps the residuals of the gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import inner_gradient
from pallas_kernels.tpu.inner_loss import InnerGradient
from pallas_kernels.tpu.inner_loss import norm_lanes
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.tiling import Grid
from pallas_kernels.tpu.window import GridStep
from pallas_kernels.ttt_mlp.tpu_stages import FACTOR
from pallas_kernels.ttt_mlp.tpu_stages import State
from pallas_kernels.ttt_mlp.tpu_stages import twice_gelu_curvature
from pallas_kernels.ttt_mlp.tpu_stages import update_state
from pallas_kernels.types import Norm


class Residuals(NamedTuple):
  """A group's intermediate values in VMEM, [G, ...] or [G + 1, ...].

  Operands of products are kept in their dtype: weights have no other use, and
  recomputing the hidden layer from z would cost its tanh.
  """

  w1: Any  # [P, 128, K] before each mini-batch and after the last
  b1: Any  # [P, R, K]
  w2: Any  # [P, 128, K]
  c2: Any  # [1, P 128]
  a: Any  # [P, R C, K]
  slope: Any  # [P, R C, K]
  h: Any  # [P, R C, K] slope * (f w2)
  curved: Any  # [P, R C, K] A''(z) * (f w2)
  gradient: InnerGradient  # [P, C, 128] each


def residuals_scratch(grid: Grid, state: list[tuple[int, ...]]) -> Residuals:
  """Returns the scratch to allocate; `state` holds shapes without B."""
  tiling = grid.tiling
  w1, b1, w2, c2 = (
    (grid.steps + 1, *grid.state_shape(shape)) for shape in state
  )
  grid_step = (grid.steps, grid.packs)
  hidden = (*grid_step, tiling.packing.heads * tiling.mini_batch, state[0][-1])
  tokens = (*grid_step, tiling.mini_batch, LANES)
  narrow = lambda shape: pltpu.VMEM(shape, tiling.dtype)
  wide = lambda shape: pltpu.VMEM(shape, tiling.wide)
  return Residuals(
    w1=narrow(w1),
    b1=wide(b1),
    w2=narrow(w2),
    c2=wide(c2),
    a=narrow(hidden),
    slope=narrow(hidden),
    h=narrow(hidden),
    curved=narrow(hidden),
    gradient=InnerGradient(*(wide(tokens) for _ in range(4))),
  )


def residual_bytes(
  head_dim: int, hidden: int, mini_batch: int, dtype: jnp.dtype
) -> int:
  """Returns the size of the residuals of one mini-batch of one pack."""
  heads = LANES // head_dim
  operands = (2 * LANES + 4 * heads * mini_batch) * hidden
  # A bias takes full registers of 8 rows.
  wide = 4 * mini_batch * LANES + 8 * (hidden + LANES)
  return operands * jnp.dtype(dtype).itemsize + 4 * wide


def replay(
  grid_step: GridStep,
  k: Any,
  v: Any,
  step_size: Any,
  norm: Norm,
  state: State,
  residuals: Residuals,
) -> None:
  """Updates `state` over the group, fills the residuals; arguments are refs."""
  grid = grid_step.grid

  @pl.loop(0, grid.steps)
  def _(m):
    windows = grid_step.windows(m)
    _save_state(m, state, residuals)
    hidden = [_hidden(w, k, state, residuals) for w in windows]
    steps = [
      _step(w, h, k, v, step_size, norm, state, residuals)
      for w, h in zip(windows, hidden)
    ]
    for p, (window, layer, (f, h)) in enumerate(zip(windows, hidden, steps)):
      keys = window.tiling.packing.block_diagonal(window.read(k))
      update_state(state, p, keys, layer.a, f, h, window.tiling)

  _save_state(grid.steps, state, residuals)


class _Hidden(NamedTuple):
  """The hidden layer of one pack at the keys of a mini-batch."""

  a: jax.Array  # [R C, K]
  slope: jax.Array  # [R C, K]
  curvature: jax.Array  # [R C, K]
  y: jax.Array  # [C, 128]


def _save_state(m, state, residuals):
  """Saves the state before mini-batch m."""
  for value, kept in zip(state, residuals[:4]):
    kept[m] = value[...].astype(kept.dtype)


def _hidden(window, k, state, residuals):
  """Returns both layers' values at the keys."""
  tiling, p, m = window.tiling, window.p, window.m
  packing, products = tiling.packing, tiling.products
  rows = packing.block_diagonal(window.read(k))
  z = packing.add_bias(products.times(rows, residuals.w1[m, p]), state.b1[p])
  a, slope, curvature = twice_gelu_curvature(z.astype(tiling.elementwise))
  a = a.astype(tiling.dtype)
  residuals.a[m, p] = a
  residuals.slope[m, p] = slope.astype(tiling.dtype)
  y = products.times_transposed(a, residuals.w2[m, p])
  y = packing.diagonal(y) + state.c2[:, window.lanes]
  return _Hidden(a, slope, curvature, y)


def _step(window, hidden, k, v, step_size, norm, state, residuals):
  """Returns the step of the weights, f and h; updates c2."""
  tiling, p, m = window.tiling, window.p, window.m
  keys, values = (window.read(ref).astype(tiling.wide) for ref in (k, v))
  gradient = inner_gradient(
    hidden.y,
    keys,
    values,
    norm_lanes(norm, window.lanes),
    tiling.packing.mean,
    FACTOR,
  )
  for value, kept in zip(gradient, residuals.gradient):
    kept[m, p] = value
  f = step_size[window.rows, window.lanes] * gradient.g
  state.c2[:, window.lanes] = state.c2[:, window.lanes] - 4 * column_sum(f)
  f = tiling.packing.block_diagonal(f.astype(tiling.dtype))
  fw = tiling.products.times(f, residuals.w2[m, p]).astype(tiling.elementwise)
  h = (fw * hidden.slope).astype(tiling.dtype)
  residuals.h[m, p] = h
  residuals.curved[m, p] = (fw * hidden.curvature).astype(tiling.dtype)
  return f, h
