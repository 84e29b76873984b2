"""TTT-Linear forward on TPU: one grid step walks M mini-batches of P packs.

The state stays in VMEM from the first step in time to the last. Equations:
`tpu_stages.py`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from pallas_kernels.tpu import rates
from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import inner_gradient
from pallas_kernels.tpu.inner_loss import Norm
from pallas_kernels.tpu.inner_loss import normalize
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.plan import Grid
from pallas_kernels.tpu.plan import Plan
from pallas_kernels.tpu.window import Step
from pallas_kernels.tpu.window import Window
from pallas_kernels.ttt_linear.tpu_stages import apply
from pallas_kernels.ttt_linear.tpu_stages import move
from pallas_kernels.ttt_linear.tpu_stages import State


def forward(
    plan: Plan,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    eta: jax.Array,
    norm: Norm,
    state: State,
    *,
    save: bool,
) -> tuple[jax.Array, State, State | None]:
  """Runs the inner loop over the whole sequence.

  Args:
    plan: sizes.
    q: [B, T, packs 128]; k and v likewise.
    eta: [B, T, H].
    norm: [1, packs 128] each.
    state: initial, [B, ...].
    save: whether to return the state before every G-th mini-batch.

  Returns:
    (out [B, T, packs 128], last state [B, ...], saved states
    [B, ceil(N / G), ...] or None).
  """
  grid = Grid(plan, plan.forward_packs, plan.steps)
  shapes = [array.shape[1:] for array in state]
  wide = functools.partial(jax.ShapeDtypeStruct, dtype=plan.wide)
  states = State(*(grid.state(shape) for shape in shapes))
  out_specs = [grid.tokens(), states]
  out_shape = [
      jax.ShapeDtypeStruct(q.shape, plan.dtype),
      State(*(wide(array.shape) for array in state)),
  ]
  if save:
    groups = -(-plan.length // (plan.group * plan.mini_batch))
    out_specs.append(State(*(grid.saved(shape) for shape in shapes)))
    out_shape.append(
        State(*(wide((plan.batch, groups, *a.shape[1:])) for a in state))
    )
  result = pl.pallas_call(
      functools.partial(_kernel, grid=grid),
      name='ttt_linear_forward',
      grid=grid.shape,
      in_specs=[
          *[grid.tokens()] * 3,
          grid.rates(),
          Norm(grid.norm(), grid.norm()),
          states,
      ],
      out_specs=out_specs,
      out_shape=out_shape,
      scratch_shapes=[
          State(*(pltpu.VMEM(grid.shares(s), plan.wide) for s in shapes)),
          pltpu.VMEM((grid.rows, grid.packs * LANES), plan.wide),
          pltpu.VMEM(rates.selector_shape(grid), plan.dtype),
      ],
      compiler_params=grid.compiler_params(),
  )(q, k, v, eta, norm, state)
  return (*result, None)[:3]


def _kernel(
    q: Any, k: Any, v: Any, eta: Any, norm: Norm, initial: State, *refs: Any,
    grid: Grid,
) -> None:
  """One grid step; arguments are refs of blocks."""
  out, last, *saved, state, rate, selected = refs
  here = Step.here(grid)

  @pl.when(here.first)
  def _():
    for ref, block in zip(state, initial):
      ref[...] = block[0]
    selected[...] = rates.selector(here)

  if saved:
    every = grid.plan.group // grid.steps

    @pl.when(jax.lax.rem(here.number, every) == 0)
    def _():
      for ref, block in zip(state, saved[0]):
        block[0, 0] = ref[...]

  rates.spread(eta.at[0], selected[...], rate, here)
  for m in range(grid.steps):
    _mini_batch(Window(here, m), q, k, v, rate, norm, state, out)
  last_read = Window(here, grid.steps - 1)
  y = apply(last_read.read(q), state.w, grid.plan) + state.b[...]
  _write(last_read, y, q, norm, out)

  @pl.when(here.last)
  def _():
    for ref, block in zip(state, last):
      block[0] = ref[...]


def _mini_batch(window, q, k, v, rate, norm, state, out):
  """Updates the state by a mini-batch, and reads the one before it.

  The rows of q of the mini-batch before ride along with the rows of k: both
  meet the same weights.
  """
  plan, before = window.plan, window.before()
  keys = window.read(k)
  rows = keys
  if before is not None:
    rows = jnp.concatenate([keys, before.read(q)], axis=0)
  y = apply(rows, state.w, plan) + state.b[...]
  gradient = inner_gradient(
      y[: plan.mini_batch],
      keys.astype(plan.wide),
      window.read(v).astype(plan.wide),
      norm.at(window.lanes),
      plan.packing,
  )
  f = rate[window.rows] * gradient.g
  move(state.w, keys, f, -1, plan)
  state.b[...] = state.b[...] - column_sum(f)
  # Last, because nothing waits for it.
  if before is not None:
    _write(before, y[plan.mini_batch :], q, norm, out)


def _write(window, y, q, norm, out):
  """Writes q + LN(y)."""
  x, _ = normalize(y, window.plan.packing)
  queries = window.read(q).astype(window.plan.wide)
  window.write(out, queries + norm.scale[...] * x + norm.bias[...])
