"""TTT-MLP backward on TPU: a group of mini-batches, forwards and backwards.

The group is walked again from the state before it, which keeps in VMEM what
the gradients need (`tpu_replay.py`), and then backwards: for each mini-batch
through what read the state after it (`tpu_read_backward.py`), then through the
update that made that state (`tpu_update_backward.py`).
"""

from __future__ import annotations

from typing import Any

from jax.experimental import pallas as pl

from pallas_kernels.tpu import rates
from pallas_kernels.tpu.inner_loss import Norm
from pallas_kernels.tpu.tokens import Tokens
from pallas_kernels.tpu.window import Step
from pallas_kernels.ttt_mlp import tpu_read_backward as reading
from pallas_kernels.ttt_mlp import tpu_update_backward as updating
from pallas_kernels.ttt_mlp.tpu_replay import replay
from pallas_kernels.ttt_mlp.tpu_replay import Stash
from pallas_kernels.ttt_mlp.tpu_stages import State


def backward(
  here: Step,
  tokens: Tokens,
  rate: Any,
  norm: Norm,
  state: State,
  stash: Stash,
  d_out: Any,
  d_tokens: Tokens,
  d_norm: Norm,
  d_state: State,
) -> None:
  """Walks the group of a grid step; arguments are refs of blocks."""
  replay(here, tokens.k, tokens.v, rate, norm, state, stash)

  @pl.loop(0, here.grid.steps)
  def _(i):
    windows = here.windows(here.grid.steps - 1 - i)
    # Stage by stage over the packs, whose chains are independent.
    reads = [reading.hidden(w, tokens.q, stash) for w in windows]
    reads = [
      reading.gradient(w, read, d_out, norm, stash, d_norm, d_state)
      for w, read in zip(windows, reads)
    ]
    for window, read in zip(windows, reads):
      reading.products(window, read, d_out, stash, d_tokens.q, d_state)
    steps = [updating.step(w, tokens.k, stash, d_state) for w in windows]
    hidden = [
      updating.gradient(
        w, step, tokens, rate, norm, stash, d_tokens, d_norm, d_state
      )
      for w, step in zip(windows, steps)
    ]
    for window, step, h in zip(windows, steps, hidden):
      updating.products(window, step, h, stash, d_tokens.k, d_state)
    d_tokens.eta[0, 0, windows[0].rows] = rates.gather(
      [h.d_rate for h in hidden], here.grid.plan.packing
    )
