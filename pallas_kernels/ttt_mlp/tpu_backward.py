"""TTT-MLP backward on TPU: groups of mini-batches from the last to the first.

One grid step takes the state that the forward pass saved before a group of G
mini-batches, walks the group forwards again (`tpu_replay.py`) and keeps in
VMEM what the gradients need, then walks it backwards. With d for cotangents,
d_w1', d_b1', d_w2', d_c2' those of the state after a mini-batch, and the names
of `tpu_stages.py`:

reading, out = q + scale x + bias with x = LN(a w2'^T + c2') at q:

    d_y = r (scale d_out - x mean(scale d_out x))
    d_z = A'(z) * (d_y w2')         d_q = d_out + d_z w1'^T
    d_w1' += q^T d_z                d_w2' += d_y^T a,  and their biases

updating, w1' = w1 - k^T h, w2' = w2 - f^T a, h = slope * (f w2):

    d_h = -e,   e = k d_w1' + d_b1'
    d_f = -(a d_w2'^T + (slope * e) w2^T + 4 d_c2')
    d_eta = sum g d_f               d_g = eta d_f
    d_y, d_error from d_g           (`tpu/inner_loss.py`)
    d_z = slope * (d_y w2 - f d_w2') - A''(z) * (f w2) * e
    d_v = -d_error                  d_k = d_error + d_z w1^T - h d_w1'^T
    d_w1 = d_w1' + k^T d_z
    d_w2 = d_w2' + d_y^T a - f^T (slope * e)

Products with the same contraction are written as one with operands side by
side: the matrix unit sums them.
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
from pallas_kernels.tpu.inner_loss import inner_gradient_backward
from pallas_kernels.tpu.inner_loss import Norm
from pallas_kernels.tpu.inner_loss import normalize
from pallas_kernels.tpu.inner_loss import normalize_backward
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.plan import Grid
from pallas_kernels.tpu.plan import Plan
from pallas_kernels.tpu.tokens import Tokens
from pallas_kernels.tpu.window import Step
from pallas_kernels.ttt_mlp.tpu_replay import replay
from pallas_kernels.ttt_mlp.tpu_replay import Stash
from pallas_kernels.ttt_mlp.tpu_replay import stash_scratch
from pallas_kernels.ttt_mlp.tpu_stages import FACTOR
from pallas_kernels.ttt_mlp.tpu_stages import State
from pallas_kernels.ttt_mlp.tpu_stages import twice_gelu_slope


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
  d_tokens, d_norm, d_state = pl.pallas_call(
      functools.partial(_kernel, grid=grid),
      name='ttt_mlp_backward',
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
          stash_scratch(grid, shapes),
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
  replay(here, tokens.k, tokens.v, rate, norm, state, stash)
  d_norm = Norm(*(ref.at[0] for ref in d_norm))
  d_state = State(*(ref.at[0] for ref in d_state))

  @pl.loop(0, grid.steps)
  def _(i):
    windows = here.windows(grid.steps - 1 - i)
    # Stage by stage over the packs, whose chains are independent.
    reads = [_read(w, tokens.q, stash) for w in windows]
    reads = [
        _read_backward(w, r, d_out, norm, stash, d_norm, d_state)
        for w, r in zip(windows, reads)
    ]
    for window, read in zip(windows, reads):
      _read_products(window, read, d_out, stash, d_tokens.q, d_state)
    steps = [_step_backward(w, tokens.k, stash, d_state) for w in windows]
    hidden = [
        _gradient_backward(
            w, s, tokens, rate, norm, stash, d_tokens, d_norm, d_state
        )
        for w, s in zip(windows, steps)
    ]
    for window, step, h in zip(windows, steps, hidden):
      _hidden_products(window, step, h, stash, d_tokens.k, d_state)
    d_tokens.eta[0, 0, windows[0].rows] = rates.gather(
        [h.d_rate for h in hidden], grid.plan.packing
    )


class _Read(NamedTuple):
  """The hidden layer of one pack at the queries of a mini-batch."""

  rows: jax.Array  # [R C, 128] queries
  a: jax.Array  # [R C, K]
  slope: jax.Array  # [R C, K]
  y: jax.Array  # [C, 128]


class _ReadGradient(NamedTuple):
  """Operands of the products that end the backward pass of a read."""

  rows: jax.Array  # [R C, 128] queries
  a: jax.Array  # [R C, K]
  d_y: jax.Array  # [R C, 128]
  d_z: jax.Array  # [R C, K]


def _read(window, q, stash):
  """Passes the queries through the state after their mini-batch."""
  plan, p, after = window.plan, window.p, window.m + 1
  packing, products = plan.packing, plan.products
  rows = packing.block_diagonal(window.read(q))
  z = packing.add_bias(
      products.times(rows, stash.w1[after, p]), stash.b1[after, p]
  )
  a, slope = twice_gelu_slope(z.astype(plan.elementwise))
  a = a.astype(plan.dtype)
  y = products.times_transposed(a, stash.w2[after, p])
  return _Read(rows, a, slope, packing.diagonal(y) + stash.c2[after, :, window.lanes])


def _read_backward(window, read, d_out, norm, stash, d_norm, d_state):
  """Goes back from d_out to d_z."""
  plan, p, after = window.plan, window.p, window.m + 1
  packing = plan.packing
  x, r = normalize(read.y, packing, FACTOR)
  d_out = window.read(d_out).astype(plan.wide)
  d_norm.bias[:, window.lanes] += column_sum(d_out)
  d_norm.scale[:, window.lanes] += column_sum(d_out * x)
  d_y = normalize_backward(norm.scale[:, window.lanes] * d_out, x, r, packing)
  d_state.c2[:, window.lanes] += column_sum(d_y)
  d_y = packing.block_diagonal(d_y.astype(plan.dtype))
  d_a = plan.products.times(d_y, stash.w2[after, p])
  d_z = d_a.astype(plan.elementwise) * read.slope
  return _ReadGradient(read.rows, read.a, d_y, d_z.astype(plan.dtype))


def _read_products(window, read, d_out, stash, d_q, d_state):
  """Adds to d_w1', d_b1', d_w2' and writes d_q."""
  plan, p, after = window.plan, window.p, window.m + 1
  products = plan.products
  d_state.w2[p] += products.transposed_times(read.d_y, read.a)
  d_rows = products.times_transposed(read.d_z, stash.w1[after, p])
  d_out = window.read(d_out).astype(plan.wide)
  window.write(d_q, d_out + plan.packing.diagonal(d_rows))
  _add_first(window, read.rows, read.d_z, d_state)


class _StepGradient(NamedTuple):
  """What flows back from the step of the weights."""

  rows: jax.Array  # [R C, 128] keys
  d_w1: jax.Array  # [128, K] of the state after, operand
  d_w2: jax.Array  # [128, K]
  slope_e: jax.Array  # [R C, K] slope * e
  curved_e: jax.Array  # [R C, K] A''(z) * (f w2) * e
  d_f: jax.Array  # [C, 128]


class _HiddenGradient(NamedTuple):
  """Operands of the products that end the backward pass of an update."""

  d_rate: jax.Array  # [C, 128], its sum over features is d_eta
  f: jax.Array  # [R C, 128], negative
  d_y: jax.Array  # [R C, 128]
  d_z: jax.Array  # [R C, K]
  d_keys: jax.Array  # [C, 128] the part of the inner loss's target


def _step_backward(window, k, stash, d_state):
  """Goes back from d_w1', d_b1', d_w2', d_c2' to d_f."""
  plan, p, m = window.plan, window.p, window.m
  packing, products = plan.packing, plan.products
  d_w1, d_w2 = (
      d[p].astype(plan.dtype) for d in (d_state.w1, d_state.w2)
  )
  rows = packing.block_diagonal(window.read(k))
  e = packing.add_bias(products.times(rows, d_w1), d_state.b1[p])
  e = e.astype(plan.elementwise)
  slope_e = (e * stash.slope[m, p].astype(e.dtype)).astype(plan.dtype)
  curved_e = e * stash.curved[m, p].astype(e.dtype)
  d_f = products.times_transposed(
      jnp.concatenate([stash.a[m, p], slope_e], axis=1),
      jnp.concatenate([d_w2, stash.w2[m, p]], axis=1),
  )
  d_f = -(packing.diagonal(d_f) + 4 * d_state.c2[:, window.lanes])
  return _StepGradient(rows, d_w1, d_w2, slope_e, curved_e, d_f)


def _gradient_backward(
    window, step, tokens, rate, norm, stash, d_tokens, d_norm, d_state
):
  """Goes back from d_f through the inner gradient to d_z; writes d_v."""
  plan, p, m = window.plan, window.p, window.m
  packing = plan.packing
  gradient = Gradient(*(ref[m, p] for ref in stash.gradient))
  eta = rate[window.rows, window.lanes]
  k, v = (window.read(ref).astype(plan.wide) for ref in tokens[1:3])
  d = inner_gradient_backward(
      eta * step.d_f, gradient, k, v, norm.at(window.lanes), packing
  )
  window.write(d_tokens.v, -d.d_error)
  for total, part in zip(d_norm, d.d_norm):
    total[:, window.lanes] += part
  d_state.c2[:, window.lanes] += column_sum(d.d_y)

  d_y = packing.block_diagonal(d.d_y.astype(plan.dtype))
  f = packing.block_diagonal((-(eta * gradient.g)).astype(plan.dtype))
  d_a = plan.products.times(
      jnp.concatenate([d_y, f], axis=1),
      jnp.concatenate([stash.w2[m, p], step.d_w2], axis=0),
  ).astype(plan.elementwise)
  d_z = d_a * stash.slope[m, p].astype(d_a.dtype) - step.curved_e
  return _HiddenGradient(
      gradient.g * step.d_f, f, d_y, d_z.astype(plan.dtype), d.d_error
  )


def _hidden_products(window, step, hidden, stash, d_k, d_state):
  """Adds to d_w1, d_b1, d_w2 and writes d_k."""
  plan, p, m = window.plan, window.p, window.m
  products = plan.products
  d_state.w2[p] += products.transposed_times(
      jnp.concatenate([hidden.d_y, hidden.f], axis=0),
      jnp.concatenate([stash.a[m, p], step.slope_e], axis=0),
  )
  d_rows = products.times_transposed(
      jnp.concatenate([hidden.d_z, -stash.h[m, p]], axis=1),
      jnp.concatenate([stash.w1[m, p], step.d_w1], axis=1),
  )
  window.write(d_k, plan.packing.diagonal(d_rows) + hidden.d_keys)
  _add_first(window, step.rows, hidden.d_z, d_state)


def _add_first(window, rows, d_z, d_state):
  """Adds rows^T d_z to d_w1 and each head's sum of d_z to d_b1."""
  plan, p = window.plan, window.p
  packing = plan.packing
  left = [rows.T, packing.row_sums(plan.dtype)]
  d_first = plan.products.times(jnp.concatenate(left, axis=0), d_z)
  d_state.w1[p] += d_first[:LANES]
  d_state.b1[p] += d_first[LANES : LANES + packing.heads]
