"""TTT-MLP forward on TPU: the mini-batches of a grid step.

Chains of different packs are independent and written side by side, so that the
compiler can fill the latency of one with the others. Equations:
`tpu_stages.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import inner_gradient
from pallas_kernels.tpu.inner_loss import Norm
from pallas_kernels.tpu.inner_loss import normalize
from pallas_kernels.tpu.tokens import Tokens
from pallas_kernels.tpu.window import Step
from pallas_kernels.ttt_mlp.tpu_stages import FACTOR
from pallas_kernels.ttt_mlp.tpu_stages import move
from pallas_kernels.ttt_mlp.tpu_stages import State
from pallas_kernels.ttt_mlp.tpu_stages import twice_gelu
from pallas_kernels.ttt_mlp.tpu_stages import twice_gelu_slope


def forward(
    here: Step, tokens: Tokens, rate: Any, norm: Norm, state: State, out: Any
) -> None:
  """Walks the mini-batches of a grid step; arguments are refs of blocks."""
  last = here.grid.steps - 1
  for m in range(last + 1):
    _mini_batch(here, m, *tokens[:3], rate, norm, state, out)
  for window in here.windows(last):
    _read(window, tokens.q, norm, state, out)


class _Hidden(NamedTuple):
  """The hidden layer of one pack at the keys of a mini-batch."""

  k: jax.Array  # [C, 128]
  a: jax.Array  # [R C, K], operand of products
  slope: jax.Array  # [R C, K]
  w2: jax.Array  # [128, K], operand of products
  y: jax.Array  # [C, 128]
  read: jax.Array | None  # [C, 128] y at the queries of the mini-batch before


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
  hidden = [_hidden(w, q, k, state) for w in windows]
  steps = [
      _step(w, h, v, rate, norm, state) for w, h in zip(windows, hidden)
  ]
  # Nothing waits for what is written, the next mini-batch for what is moved.
  for window, h in zip(windows, hidden):
    if m > 0:
      _write(window.before(), h.read, q, norm, out)
  for window, h, step in zip(windows, hidden, steps):
    # Made again: cheaper than keeping them.
    keys = window.plan.packing.block_diagonal(h.k)
    move(state, window.p, keys, h.a, step.f, step.h, window.plan)


def _hidden(window, q, k, state):
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
  c2 = state.c2[:, window.lanes]
  read = None if before is None else packing.diagonal(y[cut:]) + c2
  return _Hidden(keys, a, slope, w2, packing.diagonal(y[:cut]) + c2, read)


def _step(window, hidden, v, rate, norm, state):
  """Returns the step of the weights, and moves c2."""
  plan = window.plan
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


def _read(window, q, norm, state, out):
  """Reads the last mini-batch of a grid step with the state after it."""
  plan, p = window.plan, window.p
  rows = plan.packing.block_diagonal(window.read(q))
  z = _biased(plan.products.times(rows, state.w1[p]), state.b1[p], plan)
  y = plan.products.times_transposed(twice_gelu(z), state.w2[p])
  y = plan.packing.diagonal(y) + state.c2[:, window.lanes]
  _write(window, y, q, norm, out)


def _biased(z, b1, plan):
  """Returns z + b1 in the dtype of the hidden layer's arithmetic."""
  return plan.packing.add_bias(z, b1).astype(plan.elementwise)


def _write(window, y, q, norm, out):
  """Writes q + LN(y), [C, 128]."""
  plan = window.plan
  x, _ = normalize(y, plan.packing, FACTOR)
  queries = window.read(q).astype(plan.wide)
  scale, bias = norm.at(window.lanes)
  window.write(out, queries + scale * x + bias)
