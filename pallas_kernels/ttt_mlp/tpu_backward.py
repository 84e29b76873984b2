"""TTT-MLP backward on TPU: a group of mini-batches, forwards and backwards.

The group is replayed from its initial state, with the residuals kept in VMEM
(`tpu_replay.py`), and then traversed backwards: for each mini-batch through the
read of the state after it (`tpu_read_backward.py`), then through the update
that produced that state (`tpu_update_backward.py`).
"""

from __future__ import annotations

from typing import Any

from jax.experimental import pallas as pl

from pallas_kernels.tpu import step_sizes
from pallas_kernels.tpu.window import GridStep
from pallas_kernels.ttt_mlp import tpu_read_backward
from pallas_kernels.ttt_mlp import tpu_update_backward
from pallas_kernels.ttt_mlp.tpu_replay import replay
from pallas_kernels.ttt_mlp.tpu_replay import Residuals
from pallas_kernels.ttt_mlp.tpu_stages import State
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens


def backward(
  grid_step: GridStep,
  tokens: Tokens,
  step_size: Any,
  norm: Norm,
  state: State,
  residuals: Residuals,
  d_out: Any,
  d_tokens: Tokens,
  d_norm: Norm,
  d_state: State,
) -> None:
  """Runs the group of a grid step; arguments are refs of blocks."""
  replay(grid_step, tokens.k, tokens.v, step_size, norm, state, residuals)

  @pl.loop(0, grid_step.grid.steps)
  def _(i):
    windows = grid_step.windows(grid_step.grid.steps - 1 - i)
    # Stage by stage over the packs, whose chains are independent.
    reads = [tpu_read_backward.hidden(w, tokens.q, residuals) for w in windows]
    reads = [
      tpu_read_backward.gradient(
        w, read, d_out, norm, residuals, d_norm, d_state
      )
      for w, read in zip(windows, reads)
    ]
    for window, read in zip(windows, reads):
      tpu_read_backward.products(
        window, read, d_out, residuals, d_tokens.q, d_state
      )
    steps = [
      tpu_update_backward.step(w, tokens.k, residuals, d_state) for w in windows
    ]
    hidden = [
      tpu_update_backward.gradient(
        w, step, tokens, step_size, norm, residuals, d_tokens, d_norm, d_state
      )
      for w, step in zip(windows, steps)
    ]
    for window, step, h in zip(windows, steps, hidden):
      tpu_update_backward.products(
        window, step, h, residuals, d_tokens.k, d_state
      )
    d_tokens.eta[0, 0, windows[0].rows] = step_sizes.reduce_gradient(
      [h.d_step_size for h in hidden], grid_step.grid.tiling.packing
    )
