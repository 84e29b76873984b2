"""Walks a group of mini-batches again and keeps what the gradients need."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import Gradient
from pallas_kernels.tpu.inner_loss import inner_gradient
from pallas_kernels.tpu.inner_loss import Norm
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.plan import Grid
from pallas_kernels.tpu.window import Step
from pallas_kernels.ttt_mlp.tpu_stages import FACTOR
from pallas_kernels.ttt_mlp.tpu_stages import move
from pallas_kernels.ttt_mlp.tpu_stages import State
from pallas_kernels.ttt_mlp.tpu_stages import twice_gelu_curvature


class Stash(NamedTuple):
  """A group's intermediate values in VMEM, [G, ...] or [G + 1, ...].

  Operands of products are kept as such: weights are needed as nothing else,
  and the hidden layer would be made again from z at the price of its tanh.
  """

  w1: Any  # [P, 128, K] before each mini-batch and after the last
  b1: Any  # [P, R, K]
  w2: Any  # [P, 128, K]
  c2: Any  # [1, P 128]
  a: Any  # [P, R C, K]
  slope: Any  # [P, R C, K]
  h: Any  # [P, R C, K] slope * (f w2)
  curved: Any  # [P, R C, K] A''(z) * (f w2)
  gradient: Gradient  # [P, C, 128] each


def stash_scratch(grid: Grid, state: list[tuple[int, ...]]) -> Stash:
  """Returns the stash to allocate; `state` has shapes without B."""
  plan = grid.plan
  w1, b1, w2, c2 = ((grid.steps + 1, *grid.shares(shape)) for shape in state)
  here = (grid.steps, grid.packs)
  hidden = (*here, plan.packing.heads * plan.mini_batch, state[0][-1])
  tokens = (*here, plan.mini_batch, LANES)
  narrow = functools.partial(pltpu.VMEM, dtype=plan.dtype)
  wide = functools.partial(pltpu.VMEM, dtype=plan.wide)
  return Stash(
    narrow(w1),
    wide(b1),
    narrow(w2),
    wide(c2),
    *(narrow(hidden) for _ in range(4)),
    Gradient(*(wide(tokens) for _ in range(4))),
  )


def stash_bytes(
  head_dim: int, hidden: int, mini_batch: int, dtype: jnp.dtype
) -> int:
  """Returns the bytes of one mini-batch of one pack."""
  heads = LANES // head_dim
  operands = (2 * LANES + 4 * heads * mini_batch) * hidden
  # A bias takes whole registers of 8 rows.
  wide = 4 * mini_batch * LANES + 8 * (hidden + LANES)
  return operands * jnp.dtype(dtype).itemsize + 4 * wide


def replay(
  here: Step,
  k: Any,
  v: Any,
  rate: Any,
  norm: Norm,
  state: State,
  stash: Stash,
) -> None:
  """Moves `state` over the group and fills the stash; arguments are refs."""
  grid = here.grid

  @pl.loop(0, grid.steps)
  def _(m):
    windows = here.windows(m)
    _keep(m, state, stash)
    hidden = [_hidden(w, k, state, stash) for w in windows]
    steps = [
      _step(w, h, k, v, rate, norm, state, stash)
      for w, h in zip(windows, hidden)
    ]
    for window, h, (f, step) in zip(windows, hidden, steps):
      keys = window.plan.packing.block_diagonal(window.read(k))
      move(state, window.p, keys, h.a, f, step, window.plan)

  _keep(grid.steps, state, stash)


class _Hidden(NamedTuple):
  """The hidden layer of one pack at the keys of a mini-batch."""

  a: jax.Array  # [R C, K]
  slope: jax.Array  # [R C, K]
  curvature: jax.Array  # [R C, K]
  y: jax.Array  # [C, 128]


def _keep(m, state, stash):
  """Keeps the state before mini-batch m."""
  for value, kept in zip(state, stash[:4]):
    kept[m] = value[...].astype(kept.dtype)


def _hidden(window, k, state, stash):
  """Passes the keys through both layers."""
  plan, p, m = window.plan, window.p, window.m
  packing, products = plan.packing, plan.products
  rows = packing.block_diagonal(window.read(k))
  z = packing.add_bias(products.times(rows, stash.w1[m, p]), state.b1[p])
  a, slope, curvature = twice_gelu_curvature(z.astype(plan.elementwise))
  a = a.astype(plan.dtype)
  stash.a[m, p] = a
  stash.slope[m, p] = slope.astype(plan.dtype)
  y = products.times_transposed(a, stash.w2[m, p])
  y = packing.diagonal(y) + state.c2[:, window.lanes]
  return _Hidden(a, slope, curvature, y)


def _step(window, hidden, k, v, rate, norm, state, stash):
  """Returns the step of the weights, f and h, and moves c2."""
  plan, p, m = window.plan, window.p, window.m
  keys, values = (window.read(ref).astype(plan.wide) for ref in (k, v))
  gradient = inner_gradient(
    hidden.y, keys, values, norm.at(window.lanes), plan.packing.mean, FACTOR
  )
  for value, kept in zip(gradient, stash.gradient):
    kept[m, p] = value
  f = rate[window.rows, window.lanes] * gradient.g
  state.c2[:, window.lanes] = state.c2[:, window.lanes] - 4 * column_sum(f)
  f = plan.packing.block_diagonal(f.astype(plan.dtype))
  fw = plan.products.times(f, stash.w2[m, p]).astype(plan.elementwise)
  h = (fw * hidden.slope).astype(plan.dtype)
  stash.h[m, p] = h
  stash.curved[m, p] = (fw * hidden.curvature).astype(plan.dtype)
  return f, h
