"""TTT-Linear backward on TPU: a group of mini-batches, forwards and backwards.

The group is walked again from the state before it, which keeps states and
inner gradients in VMEM, and then backwards. With d for cotangents, d_w' and
d_b' those of the state after a mini-batch, and the names of `tpu_stages.py`:

reading, out = q + scale x + bias with x = LN(q w' + b'):

    d_y = r (scale d_out - x mean(scale d_out x))
    d_q = d_out + d_y w'^T          d_w' += q^T d_y        d_b' += sum d_y

updating, w' = w - k^T f, b' = b - sum f, f = eta g:

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

from pallas_kernels.tpu import rates
from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import Gradient
from pallas_kernels.tpu.inner_loss import inner_gradient
from pallas_kernels.tpu.inner_loss import inner_gradient_backward
from pallas_kernels.tpu.inner_loss import Norm
from pallas_kernels.tpu.inner_loss import normalize
from pallas_kernels.tpu.inner_loss import normalize_backward
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import lanes
from pallas_kernels.tpu.plan import Grid
from pallas_kernels.tpu.tokens import Tokens
from pallas_kernels.tpu.window import Step
from pallas_kernels.tpu.window import Window
from pallas_kernels.ttt_linear.tpu_stages import apply
from pallas_kernels.ttt_linear.tpu_stages import move
from pallas_kernels.ttt_linear.tpu_stages import State
from pallas_kernels.ttt_linear.tpu_stages import turn


class Stash(NamedTuple):
  """A group's intermediate values in VMEM."""

  w: Any  # [G + 1, P, 128, 128] before each mini-batch and after the last
  b: Any  # [G + 1, 1, P 128]
  gradient: Gradient  # [G C, P 128] each


def stash_bytes(mini_batch: int, dtype: jnp.dtype) -> int:
  """Returns the bytes of one mini-batch of one pack."""
  wide = 4 * (8 + 4 * mini_batch) * LANES
  return LANES * LANES * jnp.dtype(dtype).itemsize + wide


def stash_scratch(grid: Grid, state: list[tuple[int, ...]]) -> Stash:
  """Returns the stash to allocate; `state` has shapes without B."""
  plan = grid.plan
  w, b = ((grid.steps + 1, *grid.shares(shape)) for shape in state)
  tokens = (grid.rows, grid.packs * LANES)
  return Stash(
    pltpu.VMEM(w, plan.dtype),
    pltpu.VMEM(b, plan.wide),
    Gradient(*(pltpu.VMEM(tokens, plan.wide) for _ in range(4))),
  )


def backward(
  here: Step,
  tokens: Tokens,
  rate: Any,
  norm: Norm,
  state: State,
  stash: Stash,
  d_out: Any,
  d_tokens: Tokens,
  d_norm: Norm,
  d_state: State,
) -> None:
  """Walks the group of a grid step; arguments are refs of blocks."""
  steps = here.grid.steps

  @pl.loop(0, steps)
  def _(m):
    _keep(m, state, stash)
    _replay(Window(here, m), tokens, rate, norm, state, stash)

  _keep(steps, state, stash)

  @pl.loop(0, steps)
  def _(i):
    window = Window(here, steps - 1 - i)
    _read_backward(
      window, tokens.q, d_out, norm, stash, d_tokens.q, d_norm, d_state
    )
    _update_backward(
      window, tokens, rate, norm, stash, d_tokens, d_norm, d_state
    )


def _keep(m, state, stash):
  """Keeps the state before mini-batch m."""
  for value, kept in zip(state, stash[:2]):
    kept[m] = value[...].astype(kept.dtype)


def _replay(window, tokens, rate, norm, state, stash):
  """Moves the state by one mini-batch and keeps its inner gradient."""
  plan, m = window.plan, window.m
  keys = window.read(tokens.k)
  columns = turn(keys)
  gradient = inner_gradient(
    apply(keys, stash.w.at[m], plan) + stash.b[m],
    keys.astype(plan.wide),
    window.read(tokens.v).astype(plan.wide),
    norm.at(window.lanes),
    plan.mean,
  )
  for value, kept in zip(gradient, stash.gradient):
    kept[window.rows] = value
  f = rate[window.rows] * gradient.g
  move(state.w, columns, f, -1, plan)
  state.b[...] = state.b[...] - column_sum(f)


def _read_backward(window, q, d_out, norm, stash, d_q, d_norm, d_state):
  """Goes back from d_out to d_q, and adds to d_w' and d_b'."""
  plan, after = window.plan, window.m + 1
  rows = window.read(q)
  columns = turn(rows)
  w = stash.w.at[after]
  x, r = normalize(apply(rows, w, plan) + stash.b[after], plan.mean)
  d_out = window.read(d_out).astype(plan.wide)
  d_norm.scale[...] += column_sum(d_out * x)
  d_norm.bias[...] += column_sum(d_out)
  d_y = normalize_backward(norm.scale[...] * d_out, x, r, plan.packing.mean)
  d_rows = [
    plan.products.times_transposed(d_y[:, lanes(p)], w[p])
    for p in range(window.step.grid.packs)
  ]
  window.write(d_q, d_out + jnp.concatenate(d_rows, axis=1))
  move(d_state.w, columns, d_y, 1, plan)
  d_state.b[...] += column_sum(d_y)


def _update_backward(
  window, tokens, rate, norm, stash, d_tokens, d_norm, d_state
):
  """Goes back from d_w', d_b' to d_k, d_v, d_eta, d_w and d_b."""
  plan, m = window.plan, window.m
  packs = range(window.step.grid.packs)
  keys, eta = window.read(tokens.k), rate[window.rows]
  columns = turn(keys)
  gradient = Gradient(*(ref[window.rows] for ref in stash.gradient))
  d_w = [d_state.w[p].astype(plan.dtype) for p in packs]
  e = [plan.products.times(keys[:, lanes(p)], d_w[p]) for p in packs]
  d_f = -(jnp.concatenate(e, axis=1) + d_state.b[...])
  d_tokens.eta[0, 0, window.rows] = rates.gather(
    [(gradient.g * d_f)[:, lanes(p)] for p in packs], plan.packing
  )
  d = inner_gradient_backward(
    eta * d_f,
    gradient,
    keys.astype(plan.wide),
    window.read(tokens.v).astype(plan.wide),
    norm.at(window.lanes),
    plan.packing.mean,
  )
  for total, part in zip(d_norm, d.d_norm):
    total[...] += part
  window.write(d_tokens.v, -d.d_error)
  f = -(eta * gradient.g)
  # d_y w^T - f d_w'^T, summed by the matrix unit.
  d_rows = [
    plan.products.times_transposed(
      jnp.concatenate([d.d_y[:, lanes(p)], f[:, lanes(p)]], axis=1),
      jnp.concatenate([stash.w[m, p], d_w[p]], axis=1),
    )
    for p in packs
  ]
  window.write(d_tokens.k, jnp.concatenate(d_rows, axis=1) + d.d_error)
  move(d_state.w, columns, d.d_y, 1, plan)
  d_state.b[...] += column_sum(d.d_y)
