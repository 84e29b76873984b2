"""TTT-MLP forward on TPU: one grid step walks M mini-batches of P packs.

The state stays in VMEM from the first step in time to the last. Chains of
different packs are independent and written side by side, so that the compiler
can fill the latency of one with the others. Equations: `tpu_stages.py`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

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
from pallas_kernels.ttt_mlp.tpu_stages import FACTOR
from pallas_kernels.ttt_mlp.tpu_stages import State
from pallas_kernels.ttt_mlp.tpu_stages import twice_gelu
from pallas_kernels.ttt_mlp.tpu_stages import twice_gelu_slope


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
      name='ttt_mlp_forward',
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
    _mini_batch(here, m, q, k, v, rate, norm, state, out)
  for window in here.windows(grid.steps - 1):
    _read(window, q, norm, state, out)

  @pl.when(here.last)
  def _():
    for ref, block in zip(state, last):
      block[0] = ref[...]


class _Hidden(NamedTuple):
  """The hidden layer of one pack at the keys of a mini-batch."""

  k: jax.Array  # [C, 128]
  a: jax.Array  # [R C, K], operand of products
  slope: jax.Array  # [R C, K]
  w2: jax.Array  # [128, K], operand of products
  y: jax.Array  # [C, 128]


class _Step(NamedTuple):
  """What the weights of one pack move by, as operands of products."""

  f: jax.Array  # [R C, 128]
  h: jax.Array  # [R C, K]


def _mini_batch(here, m, q, k, v, rate, norm, state, out):
  """Updates the state of all packs by mini-batch m, and reads m - 1.

  Stage by stage over the packs. The rows of q of the mini-batch before ride
  along with the rows of k: both meet the same weights.
  """
  windows = here.windows(m)
  hidden = [_hidden(w, q, k, norm, state, out) for w in windows]
  steps = [
      _step(w, h, v, rate, norm, state) for w, h in zip(windows, hidden)
  ]
  for window, h, step in zip(windows, hidden, steps):
    _move(window, h, step, k, state)


def _hidden(window, q, k, norm, state, out):
  """Passes the keys, and the queries before them, through both layers."""
  plan, p = window.plan, window.p
  packing, products = plan.packing, plan.products
  keys = window.read(k)
  rows = packing.block_diagonal(keys)
  before = window.before()
  if before is not None:
    queries = packing.block_diagonal(before.read(q))
    rows = jnp.concatenate([rows, queries], axis=0)
  z = products.times(rows, state.w1[p])
  cut = plan.mini_batch * packing.heads
  a, slope = twice_gelu_slope(_biased(z[:cut], state.b1[p], plan))
  a = a.astype(plan.dtype)
  w2 = state.w2[p].astype(plan.dtype)
  if before is None:
    y = products.times_transposed(a, w2)
  else:
    read = twice_gelu(_biased(z[cut:], state.b1[p], plan)).astype(plan.dtype)
    y = products.times_transposed(jnp.concatenate([a, read], axis=0), w2)
    _write(before, y[cut:], q, norm, state, out)
  y = packing.diagonal(y[:cut]) + state.c2[:, window.lanes]
  return _Hidden(keys, a, slope, w2, y)


def _step(window, hidden, v, rate, norm, state):
  """Returns the step of the weights, and moves c2."""
  plan, p = window.plan, window.p
  keys = hidden.k.astype(plan.wide)
  values = window.read(v).astype(plan.wide)
  g = inner_gradient(
      hidden.y, keys, values, norm.at(window.lanes), plan.packing, FACTOR
  ).g
  f = rate[window.rows, window.lanes] * g
  state.c2[:, window.lanes] = state.c2[:, window.lanes] - 4 * column_sum(f)
  f = plan.packing.block_diagonal(f.astype(plan.dtype))
  h = plan.products.times(f, hidden.w2).astype(plan.elementwise)
  return _Step(f, (h * hidden.slope).astype(plan.dtype))


def _move(window, hidden, step, k, state):
  """Moves w1, b1 and w2."""
  plan, p = window.plan, window.p
  packing, products = plan.packing, plan.products
  state.w2[p] = state.w2[p] - products.transposed_times(step.f, hidden.a)
  keys = packing.block_diagonal(window.read(k))  # Cheaper than keeping it.
  rows = [keys.T, packing.row_sums(plan.dtype)]
  moved = products.times(jnp.concatenate(rows, axis=0), step.h)
  state.w1[p] = state.w1[p] - moved[:LANES]
  state.b1[p] = state.b1[p] - moved[LANES : LANES + packing.heads]


def _read(window, q, norm, state, out):
  """Reads the last mini-batch of a grid step with the state after it."""
  plan, p = window.plan, window.p
  rows = plan.packing.block_diagonal(window.read(q))
  z = _biased(plan.products.times(rows, state.w1[p]), state.b1[p], plan)
  y = plan.products.times_transposed(twice_gelu(z), state.w2[p])
  _write(window, y, q, norm, state, out)


def _biased(z, b1, plan):
  """Returns z + b1 in the dtype of the hidden layer's arithmetic."""
  return plan.packing.add_bias(z, b1).astype(plan.elementwise)


def _write(window, y, q, norm, state, out):
  """Writes q + LN(y) from the rows [R C, 128] of the second layer."""
  plan, p = window.plan, window.p
  y = plan.packing.diagonal(y) + state.c2[:, window.lanes]
  x, _ = normalize(y, plan.packing, FACTOR)
  queries = window.read(q).astype(plan.wide)
  window.write(out, queries + norm.scale[:, window.lanes] * x + norm.bias[:, window.lanes])
