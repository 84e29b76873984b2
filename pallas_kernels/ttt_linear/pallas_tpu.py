"""TTT-Linear as Pallas kernels for TPU."""

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
from pallas_kernels.ttt_linear.tpu_backward import backward
from pallas_kernels.ttt_linear.tpu_backward import residual_bytes
from pallas_kernels.ttt_linear.tpu_backward import residuals_scratch
from pallas_kernels.ttt_linear.tpu_forward import forward
from pallas_kernels.ttt_linear.tpu_stages import State
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens

_MODEL = InnerModel('ttt_linear', forward, backward, residuals_scratch)


def ttt_linear(
  tokens: Tokens,
  weights: tuple[jax.Array, ...],
  norm: Norm,
  *,
  mini_batch: int,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Implements `api.ttt_linear`; differentiable in reverse mode only.

  Products take their operands in the dtype of the tokens; states and sums are
  float32.

  Raises:
    NotImplementedError: a size or a dtype is not supported.
  """
  *qkv, eta = tokens
  batch, heads, length, head_dim = tokens.q.shape
  dtype = check_support(qkv, (eta, *weights, *norm), mini_batch, head_dim)
  tiling = make_tiling(
    batch=batch,
    length=length,
    heads=heads,
    head_dim=head_dim,
    mini_batch=mini_batch,
    dtype=dtype,
    state_bytes=4 * (LANES + 8) * LANES,
    residual_bytes=residual_bytes(mini_batch, dtype),
    max_packs=(12, 12),
    latency_bound_steps=24,
  )
  w, b = batched_state(weights, (3, 2), batch, tiling.wide)
  # LayerNorm is invariant to a mean over features and its gradient has none:
  # the loop runs without the mean, which is added again to its result.
  w_mean = jnp.mean(w, axis=-1, keepdims=True)
  b_mean = jnp.mean(b, axis=-1, keepdims=True)
  state = State(
    w=layout.pack_blocks(w - w_mean, tiling),
    b=layout.pack_lanes(b - b_mean, tiling),
  )
  packed_norm = layout.pack_norm(norm, tiling)
  packed_tokens = layout.pack_tokens(tokens, tiling)
  out, last = inner_loop(_MODEL, tiling, packed_tokens, packed_norm, state)
  return layout.from_lanes(out, length, tiling).astype(tokens.q.dtype), (
    layout.unpack_blocks(last.w, tiling) + w_mean,
    layout.unpack_lanes(last.b, tiling) + b_mean,
  )
