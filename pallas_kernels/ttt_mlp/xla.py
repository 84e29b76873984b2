"""TTT-MLP for any backend: closed-form gradients in a portable loop."""

from __future__ import annotations

import jax

from pallas_kernels.arguments import batched_state
from pallas_kernels.arguments import state_dtype
from pallas_kernels.ttt_mlp.step import backward
from pallas_kernels.ttt_mlp.step import learn
from pallas_kernels.ttt_mlp.step import read
from pallas_kernels.ttt_mlp.step import State
from pallas_kernels.xla.portable_loop import Norm
from pallas_kernels.xla.portable_loop import portable_loop
from pallas_kernels.xla.portable_loop import Step
from pallas_kernels.xla.portable_loop import Tokens


def ttt_mlp(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  w1: jax.Array,
  b1: jax.Array,
  w2: jax.Array,
  b2: jax.Array,
  ln_scale: jax.Array,
  ln_bias: jax.Array,
  *,
  mini_batch: int,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Returns what `api.ttt_mlp` says; reverse-mode differentiable only.

  See `portable_loop` for what the backward pass keeps and recomputes.
  """
  batch = q.shape[0]
  dtype = state_dtype(q, k, v, eta, w1, b1, w2, b2, ln_scale, ln_bias)
  state = batched_state((w1, b1, w2.mT, b2), (3, 2, 3, 2), batch, dtype)
  norm = batched_state((ln_scale, ln_bias), (2, 2), batch, dtype)
  (w1, b1, w2, b2), out = portable_loop(
    Step(learn, read, backward),
    State(*state),
    Tokens(q, k, v, eta),
    Norm(*norm),
    mini_batch,
  )
  return out, (w1, b1, w2.mT, b2)
