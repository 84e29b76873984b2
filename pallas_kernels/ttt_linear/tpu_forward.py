"""TTT-Linear forward on TPU: the mini-batches of a grid step.

Equations: `tpu_stages.py`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pallas_kernels.tpu.inner_loss import column_sum
from pallas_kernels.tpu.inner_loss import inner_gradient
from pallas_kernels.tpu.inner_loss import norm_lanes
from pallas_kernels.tpu.inner_loss import normalize
from pallas_kernels.tpu.window import GridStep
from pallas_kernels.tpu.window import Window
from pallas_kernels.ttt_linear.tpu_stages import add_product
from pallas_kernels.ttt_linear.tpu_stages import apply
from pallas_kernels.ttt_linear.tpu_stages import State
from pallas_kernels.ttt_linear.tpu_stages import transpose_packs
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens


def forward(
  grid_step: GridStep,
  tokens: Tokens,
  step_size: Any,
  norm: Norm,
  state: State,
  out: Any,
) -> None:
  """Runs the mini-batches of a grid step; arguments are refs of blocks."""
  windows = [Window(grid_step, m) for m in range(grid_step.grid.steps)]
  for window in windows:
    _mini_batch(window, *tokens[:3], step_size, norm, state, out)
  y = apply(windows[-1].read(tokens.q), state.w, grid_step.grid.tiling)
  _write(windows[-1], y + state.b[...], tokens.q, norm, out)


def _mini_batch(window, q, k, v, step_size, norm, state, out):
  """Updates the state by a mini-batch, and reads with the previous one.

  The rows of q of the previous mini-batch share a product with the rows of k:
  both are multiplied by the same weights.
  """
  tiling, previous = window.tiling, window.previous()
  keys = window.read(k)
  rows = keys
  if previous is not None:
    rows = jnp.concatenate([keys, previous.read(q)], axis=0)
  columns = transpose_packs(keys)
  y = apply(rows, state.w, tiling) + state.b[...]
  gradient = inner_gradient(
    y[: tiling.mini_batch],
    keys.astype(tiling.wide),
    window.read(v).astype(tiling.wide),
    norm_lanes(norm, window.lanes),
    tiling.mean,
  )
  f = step_size(window) * gradient.g
  add_product(state.w, columns, f, -1, tiling)
  state.b[...] = state.b[...] - column_sum(f)
  # Last, because nothing depends on it.
  if previous is not None:
    _write(previous, y[tiling.mini_batch :], q, norm, out)


def _write(window, y, q, norm, out):
  """Writes q + LN(y)."""
  x, _ = normalize(y, window.tiling.mean)
  queries = window.read(q).astype(window.tiling.wide)
  window.write(out, queries + norm.scale[...] * x + norm.bias[...])
