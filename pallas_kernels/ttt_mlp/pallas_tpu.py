"""TTT-MLP as Pallas kernels for TPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.tpu import layout
from pallas_kernels.tpu.checks import check_support
from pallas_kernels.tpu.inner_loop import inner_loop
from pallas_kernels.tpu.inner_loop import InnerModel
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.tiling import make_tiling
from pallas_kernels.ttt_mlp.tpu_backward import backward
from pallas_kernels.ttt_mlp.tpu_forward import forward
from pallas_kernels.ttt_mlp.tpu_replay import residual_bytes
from pallas_kernels.ttt_mlp.tpu_replay import residuals_scratch
from pallas_kernels.ttt_mlp.tpu_stages import State
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens

_MODEL = InnerModel('ttt_mlp', forward, backward, residuals_scratch)


def ttt_mlp(
  tokens: Tokens,
  weights: tuple[jax.Array, ...],
  norm: Norm,
  *,
  mini_batch: int,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Implements `api.ttt_mlp`; differentiable in reverse mode only.

  Products take their operands in the dtype of the tokens, so bfloat16 tokens
  run at the full rate of the matrix unit; states and sums are float32. On
  chips whose vector unit computes in bfloat16 (v6e, tpu7x) the hidden layer of
  bfloat16 tokens does too.

  Raises:
    NotImplementedError: a size or a dtype is not supported.
  """
  *qkv, eta = tokens
  batch, heads, length, head_dim = tokens.q.shape
  hidden = weights[0].shape[-1]
  dtype = check_support(qkv, (eta, *weights, *norm), mini_batch, hidden)
  tiling = make_tiling(
    batch=batch,
    length=length,
    heads=heads,
    head_dim=head_dim,
    mini_batch=mini_batch,
    dtype=dtype,
    state_bytes=4 * (2 * LANES * hidden + LANES + hidden * LANES // head_dim),
    residual_bytes=residual_bytes(head_dim, hidden, mini_batch, dtype),
    max_packs=(8, 6),
    latency_bound_steps=12,
  )
  w1, b1, w2, b2 = batched_state(weights, (3, 2, 3, 2), batch, tiling.wide)
  # LayerNorm is invariant to a mean over features and its gradient has none:
  # the loop runs without the mean, which is added again to its result.
  w2_mean = jnp.mean(w2, axis=-1, keepdims=True)
  b2_mean = jnp.mean(b2, axis=-1, keepdims=True)
  state = State(
    w1=layout.pack_rows(w1, tiling),
    b1=layout.pack_hidden(b1, tiling),
    w2=layout.pack_rows((w2 - w2_mean).mT, tiling),
    c2=layout.pack_lanes(2 * (b2 - b2_mean), tiling),
  )
  packed_norm = layout.pack_norm(norm, tiling)
  packed_tokens = layout.pack_tokens(tokens, tiling)
  out, last = inner_loop(_MODEL, tiling, packed_tokens, packed_norm, state)
  return layout.from_lanes(out, length, tiling).astype(tokens.q.dtype), (
    layout.unpack_rows(last.w1, tiling),
    layout.unpack_hidden(last.b1, tiling),
    layout.unpack_rows(last.w2, tiling).mT + w2_mean,
    layout.unpack_lanes(last.c2, tiling) / 2 + b2_mean,
  )
