"""TTT-MLP forward on TPU: the mini-batches of a grid step.

Chains of different packs are independent and written in turns, stage by stage,
so that the compiler can fill the latency of one with the others. The matrix
unit works in the order of the program. Equations: `tpu_stages.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import inner_gradient
from pallas_kernels.tpu.inner_loss import Norm
from pallas_kernels.tpu.inner_loss import normalize
from pallas_kernels.tpu.tokens import Tokens
from pallas_kernels.tpu.window import Step
from pallas_kernels.tpu.window import Window
from pallas_kernels.ttt_mlp.tpu_stages import add_first_layer
from pallas_kernels.ttt_mlp.tpu_stages import FACTOR
from pallas_kernels.ttt_mlp.tpu_stages import move_second_layer
from pallas_kernels.ttt_mlp.tpu_stages import State
from pallas_kernels.ttt_mlp.tpu_stages import twice_gelu
from pallas_kernels.ttt_mlp.tpu_stages import twice_gelu_slope

# Stages of a mini-batch when packs go one behind the other.
_STAGES = 7


def forward(
  here: Step,
  tokens: Tokens,
  rate: Callable[[Window], jax.Array],
  norm: Norm,
  state: State,
  out: Any,
) -> None:
  """Walks the mini-batches of a grid step; arguments are refs of blocks."""
  packs, apart = here.grid.packs, here.grid.plan.few_packs
  # Many packs go side by side. Few go one behind the other, at different stages
  # of a mini-batch: one has products to do while another waits for reductions.
  late = [_STAGES * p // packs if apart else 0 for p in range(packs)]
  walks = [
    _walk(here, p, apart, *tokens[:3], rate, norm, state, out)
    for p in range(packs)
  ]
  for turn in range(_STAGES * (here.grid.steps + 2)):
    for walk, start in zip(walks, late):
      if turn >= start:
        next(walk, None)


def _walk(here, p, apart, q, k, v, rate, norm, state, out):
  """Walks the mini-batches of one pack; at a yield, other packs take a turn.

  The rows of q of the mini-batch before ride along with the rows of k: both
  meet the same weights. Nothing waits for the queries; packs that go `apart`
  pass them through the second layer later, while reductions run.
  """
  plan, before = here.grid.plan, None
  for m in range(here.grid.steps):
    window = Window(here, m, p)
    keys = window.read(k)
    z, *z_read = _first_layer(window, [keys, *_queries(before, q)], state)
    w2, c2 = state.w2[p].astype(plan.dtype), state.c2[:, window.lanes]
    if apart:
      yield
    a, slope = twice_gelu_slope(z)
    a = a.astype(plan.dtype)
    a_read = [twice_gelu(z) for z in z_read]
    y, *read = _second_layer([a] if apart else [a, *a_read], w2, c2, plan)
    yield
    f = _step(window, keys, y, v, rate, norm, state)
    yield
    if apart:
      read = _second_layer(a_read, w2, c2, plan)
      yield
    h = plan.products.times(f, w2).astype(plan.elementwise)
    h = (h * slope).astype(plan.dtype)
    yield
    move_second_layer(state, p, a, f, plan)
    for y in read:
      _write(before, y, q, norm, out)
    if apart:
      yield
    # Made again: cheaper than keeping them.
    rows = plan.packing.block_diagonal(keys)
    add_first_layer(state, p, rows, h, plan, sign=-1)
    yield
    before = window
  # The last mini-batch is read with the state after it.
  (z,) = _first_layer(before, _queries(before, q), state)
  w2, c2 = state.w2[p], state.c2[:, before.lanes]
  yield
  (y,) = _second_layer([twice_gelu(z)], w2, c2, plan)
  yield
  _write(before, y, q, norm, out)


def _queries(window, q):
  """Returns the queries of a window [C, 128], none for no window.

  What lies after the end of the sequence stays in rows of its own.
  """
  return [] if window is None else [window.read_all(q)]


def _first_layer(window, inputs, state):
  """Returns z [R C, K] for each of the inputs [C, 128]; one product."""
  plan, p = window.plan, window.p
  rows = [plan.packing.block_diagonal(x) for x in inputs]
  z = plan.products.times(jnp.concatenate(rows, axis=0), state.w1[p])
  return [
    plan.packing.add_bias(z, state.b1[p]).astype(plan.elementwise)
    for z in jnp.split(z, len(rows))
  ]


def _second_layer(hidden, w2, c2, plan):
  """Returns y [C, 128] for each of the hidden layers [R C, K]; one product."""
  if not hidden:
    return []
  hidden = [a.astype(plan.dtype) for a in hidden]
  y = plan.products.times_transposed(jnp.concatenate(hidden, axis=0), w2)
  return [plan.packing.diagonal(y) + c2 for y in jnp.split(y, len(hidden))]


def _step(window, keys, y, v, rate, norm, state):
  """Returns the step of y, an operand of products [R C, 128]; moves c2."""
  plan = window.plan
  values = window.read(v).astype(plan.wide)
  g = inner_gradient(
    y,
    keys.astype(plan.wide),
    values,
    norm.at(window.lanes),
    plan.packing.mean,
    FACTOR,
  ).g
  f = rate(window) * g
  state.c2[:, window.lanes] = state.c2[:, window.lanes] - 4 * column_sum(f)
  return plan.packing.block_diagonal(f.astype(plan.dtype))


def _write(window, y, q, norm, out):
  """Writes q + LN(y), [C, 128]."""
  plan = window.plan
  x, _ = normalize(y, plan.packing.mean, FACTOR)
  queries = window.read_all(q).astype(plan.wide)
  scale, bias = norm.at(window.lanes)
  window.write(out, queries + scale * x + bias)
