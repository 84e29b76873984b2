"""TTT-Linear as Pallas kernels for TPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.tpu import layout
from pallas_kernels.tpu.checks import check
from pallas_kernels.tpu.inner_loop import inner_loop
from pallas_kernels.tpu.inner_loop import Model
from pallas_kernels.tpu.inner_loss import Norm
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.plan import make_plan
from pallas_kernels.tpu.tokens import Tokens
from pallas_kernels.ttt_linear.tpu_backward import backward
from pallas_kernels.ttt_linear.tpu_backward import stash_bytes
from pallas_kernels.ttt_linear.tpu_backward import stash_scratch
from pallas_kernels.ttt_linear.tpu_forward import forward
from pallas_kernels.ttt_linear.tpu_stages import State

_MODEL = Model('ttt_linear', forward, backward, stash_scratch)


def ttt_linear(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  w: jax.Array,
  b: jax.Array,
  ln_scale: jax.Array,
  ln_bias: jax.Array,
  *,
  mini_batch: int,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Returns what `api.ttt_linear` says; reverse-mode differentiable only.

  Products take their operands in the dtype of the tokens, states and sums are
  float32.

  Raises:
    NotImplementedError: a size or dtype that the kernels do not have.
  """
  batch, heads, length, head_dim = q.shape
  others = (eta, w, b, ln_scale, ln_bias)
  dtype = check((q, k, v), others, mini_batch, head_dim)
  plan = make_plan(
    batch=batch,
    length=length,
    heads=heads,
    head_dim=head_dim,
    mini_batch=mini_batch,
    dtype=dtype,
    state_bytes=4 * (LANES + 8) * LANES,
    stash_bytes=stash_bytes(mini_batch, dtype),
    most_packs=(12, 12),
    few_packs_steps=24,
  )
  w, b = batched_state((w, b), (3, 2), batch, plan.wide)
  # LayerNorm takes no notice of a mean over features and its gradient has
  # none: leave it aside for the time of the loop.
  w_mean = jnp.mean(w, axis=-1, keepdims=True)
  b_mean = jnp.mean(b, axis=-1, keepdims=True)
  state = State(
    w=layout.pack_blocks(w - w_mean, plan),
    b=layout.pack_lanes(b - b_mean, plan),
  )
  norm = Norm(
    *(
      layout.pack_lanes(array.astype(plan.wide), plan)
      for array in (ln_scale, ln_bias)
    )
  )
  tokens = (layout.to_lanes(array, plan) for array in (q, k, v))
  tokens = Tokens(*tokens, layout.rates(eta, plan))
  out, last = inner_loop(_MODEL, plan, tokens, norm, state)
  return layout.from_lanes(out, length, plan).astype(q.dtype), (
    layout.unpack_blocks(last.w, plan) + w_mean,
    layout.unpack_lanes(last.b, plan) + b_mean,
  )
