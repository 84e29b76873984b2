"""TTT-Linear backward on TPU: groups of mini-batches, last to first.

One grid step takes the state that the forward pass saved before a group of G
mini-batches, walks the group forwards again, keeps states and inner gradients
in VMEM, then walks it backwards. With d for cotangents, d_w' and d_b' those of
the state after a mini-batch, and the names of `tpu_stages.py`:

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

import functools
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from pallas_kernels.tpu import layout
from pallas_kernels.tpu import rates
from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import Gradient
from pallas_kernels.tpu.inner_loss import inner_gradient
from pallas_kernels.tpu.inner_loss import inner_gradient_backward
from pallas_kernels.tpu.inner_loss import Norm
from pallas_kernels.tpu.inner_loss import normalize
from pallas_kernels.tpu.inner_loss import normalize_backward
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.plan import Grid
from pallas_kernels.tpu.plan import Plan
from pallas_kernels.tpu.tokens import Tokens
from pallas_kernels.tpu.window import Step
from pallas_kernels.tpu.window import Window
from pallas_kernels.ttt_linear.tpu_stages import apply
from pallas_kernels.ttt_linear.tpu_stages import lanes
from pallas_kernels.ttt_linear.tpu_stages import move
from pallas_kernels.ttt_linear.tpu_stages import State


class Stash(NamedTuple):
  """A group's intermediate values in VMEM."""

  w: Any  # [G + 1, P, 128, 128] before each mini-batch and after the last
  b: Any  # [G + 1, 1, P 128]
  gradient: Gradient  # [G C, P 128] each


def stash_bytes(mini_batch: int, dtype: jnp.dtype) -> int:
  """Returns the bytes of one mini-batch of one pack."""
  wide = 4 * (8 + 4 * mini_batch) * LANES
  return LANES * LANES * jnp.dtype(dtype).itemsize + wide


def backward(
    plan: Plan,
    tokens: Tokens,
    norm: Norm,
    saved: State,
    d_out: jax.Array,
    d_last: State,
) -> tuple[jax.Array, ...]:
  """Returns the cotangents of q, k, v, eta, norm and the initial state.

  Args:
    plan: sizes.
    tokens: the sequence.
    norm: [1, packs 128] each.
    saved: states before every G-th mini-batch, [B, N / G, ...].
    d_out: cotangent of out, [B, T, packs 128].
    d_last: cotangent of the last state, [B, ...].
  """
  grid = Grid(plan, plan.backward_packs, plan.group, reverse=True)
  shapes = [array.shape[1:] for array in d_last]
  states = State(*(grid.state(shape) for shape in shapes))
  scale = grid.state((1, plan.packs * LANES))
  wide = functools.partial(jax.ShapeDtypeStruct, dtype=plan.wide)
  token = jax.ShapeDtypeStruct(d_out.shape, plan.dtype)
  batch, groups, _ = grid.shape
  before = [(grid.steps + 1, *grid.shares(shape)) for shape in shapes]
  kept = (grid.rows, grid.packs * LANES)
  d_tokens, d_norm, d_state = pl.pallas_call(
      functools.partial(_kernel, grid=grid),
      name='ttt_linear_backward',
      grid=grid.shape,
      in_specs=[
          Tokens(*[grid.tokens()] * 3, grid.rates()),
          Norm(grid.norm(), grid.norm()),
          State(*(grid.saved(shape) for shape in shapes)),
          grid.tokens(),
          states,
      ],
      out_specs=[
          Tokens(*[grid.tokens()] * 3, grid.rate_gradients()),
          Norm(scale, scale),
          states,
      ],
      out_shape=[
          Tokens(
              token, token, token,
              wide((batch, groups, plan.length, grid.step_heads)),
          ),
          Norm(*[wide((batch, 1, plan.packs * LANES))] * 2),
          State(*(wide(array.shape) for array in d_last)),
      ],
      scratch_shapes=[
          State(*(pltpu.VMEM(grid.shares(s), plan.wide) for s in shapes)),
          Stash(
              pltpu.VMEM(before[0], plan.dtype),
              pltpu.VMEM(before[1], plan.wide),
              Gradient(*(pltpu.VMEM(kept, plan.wide) for _ in range(4))),
          ),
          pltpu.VMEM((grid.rows, grid.packs * LANES), plan.wide),
          pltpu.VMEM(rates.selector_shape(grid), plan.dtype),
      ],
      compiler_params=grid.compiler_params(),
  )(tokens, norm, saved, d_out, d_last)
  return (
      *d_tokens[:3],
      layout.rate_gradient(d_tokens.eta, plan),
      Norm(*(array.sum(0) for array in d_norm)),
      d_state,
  )


def _kernel(
    tokens: Tokens, norm: Norm, saved: State, d_out: Any, d_last: State,
    d_tokens: Tokens, d_norm: Norm, d_state: State,
    state: State, stash: Stash, rate: Any, selected: Any,
    *, grid: Grid,
) -> None:
  """One grid step; arguments are refs of blocks.

  d_norm and d_state stay in VMEM over all steps in time and carry the sums.
  """
  here = Step.here(grid)

  @pl.when(here.first)
  def _():
    for ref in d_norm:
      ref[...] = jnp.zeros_like(ref)
    for ref, block in zip(d_state, d_last):
      ref[...] = block[...]
    selected[...] = rates.selector(here)

  rates.spread(tokens.eta.at[0], selected[...], rate, here)
  for ref, block in zip(state, saved):
    ref[...] = block[0, 0]
  d_norm = Norm(*(ref.at[0] for ref in d_norm))
  d_state = State(*(ref.at[0] for ref in d_state))

  @pl.loop(0, grid.steps)
  def _(m):
    _keep(m, state, stash)
    _replay(Window(here, m), tokens, rate, norm, state, stash)

  _keep(grid.steps, state, stash)

  @pl.loop(0, grid.steps)
  def _(i):
    window = Window(here, grid.steps - 1 - i)
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
  gradient = inner_gradient(
      apply(keys, stash.w.at[m], plan) + stash.b[m],
      keys.astype(plan.wide),
      window.read(tokens.v).astype(plan.wide),
      norm.at(window.lanes),
      plan.packing,
  )
  for value, kept in zip(gradient, stash.gradient):
    kept[window.rows] = value
  f = rate[window.rows] * gradient.g
  move(state.w, keys, f, -1, plan)
  state.b[...] = state.b[...] - column_sum(f)


def _read_backward(window, q, d_out, norm, stash, d_q, d_norm, d_state):
  """Goes back from d_out to d_q, and adds to d_w' and d_b'."""
  plan, after = window.plan, window.m + 1
  rows = window.read(q)
  w = stash.w.at[after]
  x, r = normalize(apply(rows, w, plan) + stash.b[after], plan.packing)
  d_out = window.read(d_out).astype(plan.wide)
  d_norm.scale[...] += column_sum(d_out * x)
  d_norm.bias[...] += column_sum(d_out)
  d_y = normalize_backward(norm.scale[...] * d_out, x, r, plan.packing)
  d_rows = [
      plan.products.times_transposed(d_y[:, lanes(p)], w[p])
      for p in range(window.step.grid.packs)
  ]
  window.write(d_q, d_out + jnp.concatenate(d_rows, axis=1))
  move(d_state.w, rows, d_y, 1, plan)
  d_state.b[...] += column_sum(d_y)


def _update_backward(
    window, tokens, rate, norm, stash, d_tokens, d_norm, d_state
):
  """Goes back from d_w', d_b' to d_k, d_v, d_eta, d_w and d_b."""
  plan, m = window.plan, window.m
  packs = range(window.step.grid.packs)
  keys, eta = window.read(tokens.k), rate[window.rows]
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
      plan.packing,
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
  move(d_state.w, keys, d.d_y, 1, plan)
  d_state.b[...] += column_sum(d.d_y)
