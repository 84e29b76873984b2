"""TTT-Linear backward on TPU: a group of mini-batches, forwards and backwards.

The group is replayed from its initial state, with states and inner gradients
kept in VMEM, and then traversed backwards. With d for cotangents, d_w' and d_b'
those of the state after a mini-batch, and the names of `tpu_stages.py`:

read, out = q + scale x + bias with x = LN(q w' + b'):

    d_y = r (scale d_out - x mean(scale d_out x))
    d_q = d_out + d_y w'^T          d_w' += q^T d_y        d_b' += sum d_y

update, w' = w - k^T f, b' = b - sum f, f = eta g:

    d_f = -(k d_w' + d_b')          d_eta = sum g d_f      d_g = eta d_f
    d_y, d_error from d_g           (`tpu/inner_loss.py`)
    d_v = -d_error                  d_k = d_error + d_y w^T - f d_w'^T
    d_w = d_w' + k^T d_y            d_b = d_b' + sum d_y
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from pallas_kernels.tpu import step_sizes
from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import inner_gradient
from pallas_kernels.tpu.inner_loss import inner_gradient_backward
from pallas_kernels.tpu.inner_loss import InnerGradient
from pallas_kernels.tpu.inner_loss import norm_lanes
from pallas_kernels.tpu.inner_loss import normalize
from pallas_kernels.tpu.inner_loss import normalize_backward
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import lanes
from pallas_kernels.tpu.tiling import Grid
from pallas_kernels.tpu.window import GridStep
from pallas_kernels.tpu.window import Window
from pallas_kernels.ttt_linear.tpu_stages import add_product
from pallas_kernels.ttt_linear.tpu_stages import apply
from pallas_kernels.ttt_linear.tpu_stages import State
from pallas_kernels.ttt_linear.tpu_stages import transpose_packs
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens


class Residuals(NamedTuple):
  """A group's intermediate values in VMEM."""

  w: Any  # [G + 1, P, 128, 128] before each mini-batch and after the last
  b: Any  # [G + 1, 1, P 128]
  gradient: InnerGradient  # [G C, P 128] each


def residual_bytes(mini_batch: int, dtype: jnp.dtype) -> int:
  """Returns the size of the residuals of one mini-batch of one pack."""
  wide = 4 * (8 + 4 * mini_batch) * LANES
  return LANES * LANES * jnp.dtype(dtype).itemsize + wide


def residuals_scratch(grid: Grid, state: list[tuple[int, ...]]) -> Residuals:
  """Returns the scratch to allocate; `state` holds shapes without B."""
  tiling = grid.tiling
  w, b = ((grid.steps + 1, *grid.state_shape(shape)) for shape in state)
  tokens = (grid.rows, grid.packs * LANES)
  return Residuals(
    pltpu.VMEM(w, tiling.dtype),
    pltpu.VMEM(b, tiling.wide),
    InnerGradient(*(pltpu.VMEM(tokens, tiling.wide) for _ in range(4))),
  )


def backward(
  grid_step: GridStep,
  tokens: Tokens,
  step_size: Any,
  norm: Norm,
  state: State,
  residuals: Residuals,
  d_out: Any,
  d_tokens: Tokens,
  d_norm: Norm,
  d_state: State,
) -> None:
  """Runs the group of a grid step; arguments are refs of blocks."""
  steps = grid_step.grid.steps

  @pl.loop(0, steps)
  def _(m):
    _save_state(m, state, residuals)
    _replay(Window(grid_step, m), tokens, step_size, norm, state, residuals)

  _save_state(steps, state, residuals)

  @pl.loop(0, steps)
  def _(i):
    window = Window(grid_step, steps - 1 - i)
    _read_backward(
      window, tokens.q, d_out, norm, residuals, d_tokens.q, d_norm, d_state
    )
    _update_backward(
      window, tokens, step_size, norm, residuals, d_tokens, d_norm, d_state
    )


def _save_state(m, state, residuals):
  """Saves the state before mini-batch m."""
  for value, kept in zip(state, residuals[:2]):
    kept[m] = value[...].astype(kept.dtype)


def _replay(window, tokens, step_size, norm, state, residuals):
  """Updates the state by one mini-batch and saves its inner gradient."""
  tiling, m = window.tiling, window.m
  keys = window.read(tokens.k)
  columns = transpose_packs(keys)
  gradient = inner_gradient(
    apply(keys, residuals.w.at[m], tiling) + residuals.b[m],
    keys.astype(tiling.wide),
    window.read(tokens.v).astype(tiling.wide),
    norm_lanes(norm, window.lanes),
    tiling.mean,
  )
  for value, kept in zip(gradient, residuals.gradient):
    kept[window.rows] = value
  f = step_size[window.rows] * gradient.g
  add_product(state.w, columns, f, -1, tiling)
  state.b[...] = state.b[...] - column_sum(f)


def _read_backward(window, q, d_out, norm, residuals, d_q, d_norm, d_state):
  """Propagates d_out back to d_q, and adds to d_w' and d_b'."""
  tiling, after = window.tiling, window.m + 1
  rows = window.read(q)
  columns = transpose_packs(rows)
  w = residuals.w.at[after]
  x, r = normalize(apply(rows, w, tiling) + residuals.b[after], tiling.mean)
  d_out = window.read(d_out).astype(tiling.wide)
  d_norm.scale[...] += column_sum(d_out * x)
  d_norm.bias[...] += column_sum(d_out)
  d_y = normalize_backward(norm.scale[...] * d_out, x, r, tiling.packing.mean)
  d_rows = [
    tiling.products.times_transposed(d_y[:, lanes(p)], w[p])
    for p in range(window.grid_step.grid.packs)
  ]
  window.write(d_q, d_out + jnp.concatenate(d_rows, axis=1))
  add_product(d_state.w, columns, d_y, 1, tiling)
  d_state.b[...] += column_sum(d_y)


def _update_backward(
  window, tokens, step_size, norm, residuals, d_tokens, d_norm, d_state
):
  """Propagates d_w', d_b' back to d_k, d_v, d_eta, d_w and d_b."""
  tiling, m = window.tiling, window.m
  packs = range(window.grid_step.grid.packs)
  keys, eta = window.read(tokens.k), step_size[window.rows]
  columns = transpose_packs(keys)
  gradient = InnerGradient(*(ref[window.rows] for ref in residuals.gradient))
  d_w = [d_state.w[p].astype(tiling.dtype) for p in packs]
  e = [tiling.products.times(keys[:, lanes(p)], d_w[p]) for p in packs]
  d_f = -(jnp.concatenate(e, axis=1) + d_state.b[...])
  d_tokens.eta[0, 0, window.rows] = step_sizes.reduce_gradient(
    [(gradient.g * d_f)[:, lanes(p)] for p in packs], tiling.packing
  )
  d = inner_gradient_backward(
    eta * d_f,
    gradient,
    keys.astype(tiling.wide),
    window.read(tokens.v).astype(tiling.wide),
    norm_lanes(norm, window.lanes),
    tiling.packing.mean,
  )
  for ref, part in zip(d_norm, d.d_norm):
    ref[...] += part
  window.write(d_tokens.v, -d.d_error)
  f = -(eta * gradient.g)
  # d_y w^T - f d_w'^T, summed by the matrix unit.
  d_rows = [
    tiling.products.times_transposed(
      jnp.concatenate([d.d_y[:, lanes(p)], f[:, lanes(p)]], axis=1),
      jnp.concatenate([residuals.w[m, p], d_w[p]], axis=1),
    )
    for p in packs
  ]
  window.write(d_tokens.k, jnp.concatenate(d_rows, axis=1) + d.d_error)
  add_product(d_state.w, columns, d.d_y, 1, tiling)
  d_state.b[...] += column_sum(d.d_y)
