"""TTT-MLP as Pallas kernels for TPU."""

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
from pallas_kernels.ttt_mlp.tpu_backward import backward
from pallas_kernels.ttt_mlp.tpu_forward import forward
from pallas_kernels.ttt_mlp.tpu_replay import stash_bytes
from pallas_kernels.ttt_mlp.tpu_replay import stash_scratch
from pallas_kernels.ttt_mlp.tpu_stages import State

_MODEL = Model('ttt_mlp', forward, backward, stash_scratch)


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

  Products take their operands in the dtype of the tokens, so bfloat16 tokens
  run at the full rate of the matrix unit; states and sums are float32. On
  chips whose vector unit computes in bfloat16 (v6e, 7x) the hidden layer of
  bfloat16 tokens does too.

  Raises:
    NotImplementedError: a size or dtype that the kernels do not have.
  """
  batch, heads, length, head_dim = q.shape
  hidden = w1.shape[-1]
  others = (eta, w1, b1, w2, b2, ln_scale, ln_bias)
  dtype = check((q, k, v), others, mini_batch, hidden)
  plan = make_plan(
    batch=batch,
    length=length,
    heads=heads,
    head_dim=head_dim,
    mini_batch=mini_batch,
    dtype=dtype,
    state_bytes=4 * (2 * LANES * hidden + LANES + hidden * LANES // head_dim),
    stash_bytes=stash_bytes(head_dim, hidden, mini_batch, dtype),
    most_packs=(8, 6),
    few_packs_steps=12,
  )
  w1, b1, w2, b2 = batched_state(
    (w1, b1, w2, b2), (3, 2, 3, 2), batch, plan.wide
  )
  # LayerNorm takes no notice of a mean over features and its gradient has
  # none: leave it aside for the time of the loop.
  w2_mean = jnp.mean(w2, axis=-1, keepdims=True)
  b2_mean = jnp.mean(b2, axis=-1, keepdims=True)
  state = State(
    w1=layout.pack_rows(w1, plan),
    b1=layout.pack_hidden(b1, plan),
    w2=layout.pack_rows((w2 - w2_mean).mT, plan),
    c2=layout.pack_lanes(2 * (b2 - b2_mean), plan),
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
    layout.unpack_rows(last.w1, plan),
    layout.unpack_hidden(last.b1, plan),
    layout.unpack_rows(last.w2, plan).mT + w2_mean,
    layout.unpack_lanes(last.c2, plan) / 2 + b2_mean,
  )
