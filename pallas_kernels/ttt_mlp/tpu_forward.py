"""TTT-MLP forward on TPU: the mini-batches of a grid step.

The chains of operations of different packs are independent. They are
interleaved stage by stage, so that the compiler can fill the latency of one
with the others: the matrix unit executes in program order. Equations:
`tpu_stages.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import inner_gradient
from pallas_kernels.tpu.inner_loss import norm_lanes
from pallas_kernels.tpu.inner_loss import normalize
from pallas_kernels.tpu.window import GridStep
from pallas_kernels.tpu.window import Window
from pallas_kernels.ttt_mlp.tpu_stages import add_to_first_layer
from pallas_kernels.ttt_mlp.tpu_stages import FACTOR
from pallas_kernels.ttt_mlp.tpu_stages import State
from pallas_kernels.ttt_mlp.tpu_stages import twice_gelu
from pallas_kernels.ttt_mlp.tpu_stages import twice_gelu_slope
from pallas_kernels.ttt_mlp.tpu_stages import update_second_layer
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens

# Stages of a mini-batch when packs are staggered.
_STAGES = 7


def forward(
  grid_step: GridStep,
  tokens: Tokens,
  step_size: Callable[[Window], jax.Array],
  norm: Norm,
  state: State,
  out: Any,
) -> None:
  """Runs the mini-batches of a grid step; arguments are refs of blocks."""
  packs, stagger = grid_step.grid.packs, grid_step.grid.tiling.latency_bound
  # Many packs run in lockstep. Few are staggered, each at a different stage of
  # a mini-batch: one has products to compute while another waits for
  # reductions.
  delays = [_STAGES * p // packs if stagger else 0 for p in range(packs)]
  chains = [
    _pack_chain(grid_step, p, stagger, *tokens[:3], step_size, norm, state, out)
    for p in range(packs)
  ]
  for slot in range(_STAGES * (grid_step.grid.steps + 2)):
    for chain, delay in zip(chains, delays):
      if slot >= delay:
        next(chain, None)


def _pack_chain(grid_step, p, stagger, q, k, v, step_size, norm, state, out):
  """Runs the mini-batches of one pack; yields after each stage.

  The rows of q of the previous mini-batch share a product with the rows of k:
  both are multiplied by the same weights. Nothing depends on the queries, so
  staggered packs compute their second layer later, while reductions run.
  """
  tiling, previous = grid_step.grid.tiling, None
  for m in range(grid_step.grid.steps):
    window = Window(grid_step, m, p)
    keys = window.read(k)
    z, *z_read = _first_layer(window, [keys, *_queries(previous, q)], state)
    w2, c2 = state.w2[p].astype(tiling.dtype), state.c2[:, window.lanes]
    if stagger:
      yield
    a, slope = twice_gelu_slope(z)
    a = a.astype(tiling.dtype)
    a_read = [twice_gelu(z) for z in z_read]
    y, *read = _second_layer([a] if stagger else [a, *a_read], w2, c2, tiling)
    yield
    f = _step(window, keys, y, v, step_size, norm, state)
    yield
    if stagger:
      read = _second_layer(a_read, w2, c2, tiling)
      yield
    h = tiling.products.times(f, w2).astype(tiling.elementwise)
    h = (h * slope).astype(tiling.dtype)
    yield
    update_second_layer(state, p, a, f, tiling)
    for y in read:
      _write(previous, y, q, norm, out)
    if stagger:
      yield
    # Recomputed, which is cheaper than keeping them.
    rows = tiling.packing.block_diagonal(keys)
    add_to_first_layer(state, p, rows, h, tiling, sign=-1)
    yield
    previous = window
  # The last mini-batch is read with the state after it.
  (z,) = _first_layer(previous, _queries(previous, q), state)
  w2, c2 = state.w2[p], state.c2[:, previous.lanes]
  yield
  (y,) = _second_layer([twice_gelu(z)], w2, c2, tiling)
  yield
  _write(previous, y, q, norm, out)


def _queries(window, q):
  """Returns a list with the queries [C, 128] of a window; empty for None.

  They may be read unmasked: rows after the end of the sequence do not mix
  with others.
  """
  return [] if window is None else [window.read_unmasked(q)]


def _first_layer(window, inputs, state):
  """Returns z [R C, K] for each of the inputs [C, 128]; one product."""
  tiling, p = window.tiling, window.p
  rows = [tiling.packing.block_diagonal(x) for x in inputs]
  z = tiling.products.times(jnp.concatenate(rows, axis=0), state.w1[p])
  return [
    tiling.packing.add_bias(z, state.b1[p]).astype(tiling.elementwise)
    for z in jnp.split(z, len(rows))
  ]


def _second_layer(hidden, w2, c2, tiling):
  """Returns y [C, 128] for each of the hidden layers [R C, K]; one product."""
  if not hidden:
    return []
  hidden = [a.astype(tiling.dtype) for a in hidden]
  y = tiling.products.times_transposed(jnp.concatenate(hidden, axis=0), w2)
  return [tiling.packing.diagonal(y) + c2 for y in jnp.split(y, len(hidden))]


def _step(window, keys, y, v, step_size, norm, state):
  """Returns the step of y, an operand of products [R C, 128]; updates c2."""
  tiling = window.tiling
  values = window.read(v).astype(tiling.wide)
  g = inner_gradient(
    y,
    keys.astype(tiling.wide),
    values,
    norm_lanes(norm, window.lanes),
    tiling.packing.mean,
    FACTOR,
  ).g
  f = step_size(window) * g
  state.c2[:, window.lanes] = state.c2[:, window.lanes] - 4 * column_sum(f)
  return tiling.packing.block_diagonal(f.astype(tiling.dtype))


def _write(window, y, q, norm, out):
  """Writes q + LN(y), [C, 128]."""
  tiling = window.tiling
  x, _ = normalize(y, tiling.packing.mean, FACTOR)
  queries = window.read_unmasked(q).astype(tiling.wide)
  scale, bias = norm_lanes(norm, window.lanes)
  window.write(out, queries + scale * x + bias)
