"""TTT-Linear forward on TPU: the mini-batches of a grid step.

Equations: `tpu_stages.py`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import inner_gradient
from pallas_kernels.tpu.inner_loss import Norm
from pallas_kernels.tpu.inner_loss import normalize
from pallas_kernels.tpu.tokens import Tokens
from pallas_kernels.tpu.window import Step
from pallas_kernels.tpu.window import Window
from pallas_kernels.ttt_linear.tpu_stages import apply
from pallas_kernels.ttt_linear.tpu_stages import move
from pallas_kernels.ttt_linear.tpu_stages import State
from pallas_kernels.ttt_linear.tpu_stages import turn


def forward(
  here: Step, tokens: Tokens, rate: Any, norm: Norm, state: State, out: Any
) -> None:
  """Walks the mini-batches of a grid step; arguments are refs of blocks."""
  windows = [Window(here, m) for m in range(here.grid.steps)]
  for window in windows:
    _mini_batch(window, *tokens[:3], rate, norm, state, out)
  y = apply(windows[-1].read(tokens.q), state.w, here.grid.plan)
  _write(windows[-1], y + state.b[...], tokens.q, norm, out)


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
  columns = turn(keys)
  y = apply(rows, state.w, plan) + state.b[...]
  gradient = inner_gradient(
    y[: plan.mini_batch],
    keys.astype(plan.wide),
    window.read(v).astype(plan.wide),
    norm.at(window.lanes),
    plan.mean,
  )
  f = rate(window) * gradient.g
  move(state.w, columns, f, -1, plan)
  state.b[...] = state.b[...] - column_sum(f)
  # Last, because nothing waits for it.
  if before is not None:
    _write(before, y[plan.mini_batch :], q, norm, out)


def _write(window, y, q, norm, out):
  """Writes q + LN(y)."""
  x, _ = normalize(y, window.plan.mean)
  queries = window.read(q).astype(window.plan.wide)
  window.write(out, queries + norm.scale[...] * x + norm.bias[...])
