"""TTT-Linear on NVIDIA Hopper: the equations on tiles of one head.

    z [C, D] = k w + b           g [C, D] = -eta dl/dz
    w' = w + k^T g               b' = b + sum of g
    out = q + LN(q w' + b')

The step g is stored negative, so that the tensor cores add the update to the
state in place. `pallas_kernels/gpu/kernels.py` contains the loops over
mini-batches.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.gpu.gradients import read
from pallas_kernels.gpu.gradients import read_backward
from pallas_kernels.gpu.gradients import step_gradient
from pallas_kernels.gpu.gradients import step_gradient_backward
from pallas_kernels.gpu.inner_loop import inner_loop
from pallas_kernels.gpu.kernels import InnerModel
from pallas_kernels.gpu.tiles import times
from pallas_kernels.gpu.tiles import times_transposed
from pallas_kernels.gpu.tiles import transposed_times
from pallas_kernels.gpu.tiling import check_support
from pallas_kernels.gpu.tiling import make_tiling
from pallas_kernels.gpu.tiling import token_dtype
from pallas_kernels.ttt_linear.specs import NAMES
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens

# With larger tiles the backward pass exceeds 227 KiB of shared memory.
_MOST_TILE_BYTES = 65536


def ttt_linear(
  tokens: Tokens,
  weights: tuple[jax.Array, ...],
  norm: Norm,
  *,
  mini_batch: int,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Implements `api.ttt_linear`; differentiable in reverse mode only.

  Raises:
    NotImplementedError: a size, a dtype or the GPU is not supported.
  """
  *qkv, eta = tokens
  batch, heads, length, d = tokens.q.shape
  check_support(dict(zip(NAMES, (*tokens, *weights, *norm))), d, mini_batch)
  dtype = token_dtype(*qkv)
  if dtype.itemsize * d * mini_batch > _MOST_TILE_BYTES:
    raise NotImplementedError(
      f'D={d}, mini_batch={mini_batch} with {dtype.name} tokens: the GPU'
      f' kernel has shared memory for {_MOST_TILE_BYTES // dtype.itemsize}'
      ' numbers of a mini-batch'
    )
  tiling = make_tiling(
    programs=batch * heads,
    tokens=length,
    mini_batch=mini_batch,
    state_bytes=4 * (d * d + d),
    replay_bytes=2 * (dtype.itemsize * d * d + 4 * d),
  )
  out, state = inner_loop(
    _MODEL,
    tiling,
    Tokens(*(x.astype(dtype) for x in qkv), eta=eta),
    batched_state(weights, (3, 2), batch, jnp.float32),
    norm,
  )
  return out.astype(tokens.q.dtype), state


def _step(state, k, v, eta, norm, opaque_true):
  """Returns the state after the mini-batch k, v [C, D], eta [C]."""
  del opaque_true  # An argument of `tiles.fence`, which is not needed here.
  w, b = state
  g, _ = step_gradient(_affine(k, state), k, v, eta, norm)
  return w + transposed_times(k, g), b + jnp.sum(g, axis=0)


def _read_out(state, q, norm, opaque_true):
  """Returns out = q + LN(q w + b) [C, D]."""
  del opaque_true
  return read(_affine(q, state), q, norm)


def _read_backward(state, q, norm, d_out, opaque_true):
  """Returns the cotangents (d_q, d_state, d_norm) of `_read_out`."""
  del opaque_true
  d_y, d_norm = read_backward(_affine(q, state), d_out, norm)
  narrow = d_y.astype(q.dtype)
  d_q = d_out.astype(jnp.float32) + times_transposed(narrow, state[0])
  return d_q, (transposed_times(q, narrow), jnp.sum(d_y, axis=0)), d_norm


def _step_backward(state, k, v, eta, norm, d_next, opaque_true):
  """Returns the cotangents (d_state, d_k, d_v, d_eta, d_norm) of `_step`."""
  del opaque_true
  d_w, d_b = d_next
  g, residuals = step_gradient(_affine(k, state), k, v, eta, norm)

  # w' = w + k^T g and b' = b + sum of g
  d_k = times_transposed(g.astype(k.dtype), d_w)
  d_z, d_e, d_eta, d_norm = step_gradient_backward(
    residuals, eta, norm, _affine(k, d_next)
  )

  # z = k w + b
  narrow = d_z.astype(k.dtype)
  d_k = d_k + d_e + times_transposed(narrow, state[0])
  d_state = d_w + transposed_times(k, narrow), d_b + jnp.sum(d_z, axis=0)
  return d_state, d_k, -d_e, d_eta, d_norm


def _affine(x, state):
  """Returns x w + b [C, D]."""
  w, b = state
  return times(x, w) + b[None, :]


_MODEL = InnerModel(
  _step, _read_out, _read_backward, _step_backward, warps=(4, 4, 4)
)
