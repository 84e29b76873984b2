"""TTT-MLP on NVIDIA Hopper: the equations on tiles of one head.

The hidden axis comes first everywhere; both weights are [K, D]:

    z1 [K, C] = w1 k^T + b1      a [K, C] = gelu(z1)
    z2 [C, D] = a^T w2 + b2      g2 [C, D] = -eta dl/dz2
    g1 [K, C] = gelu'(z1) * (w2 g2^T)
    w1' = w1 + g1 k              w2' = w2 + a g2           (and the biases)
    out = q + LN(gelu(w1' q^T + b1')^T w2' + b2')

So every product except z2 has K = 4 D rows, which occupy two groups of four
warps, and takes its left operand from registers, which hold the state; only a
goes through shared memory. The steps g1, g2 are stored negative, so that the
tensor cores add the updates to the state in place.

`pallas_kernels/gpu/kernels.py` contains the loops over mini-batches.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.gpu.gelu import gelu
from pallas_kernels.gpu.gelu import gelu_slope
from pallas_kernels.gpu.gelu import gelu_slope_curvature
from pallas_kernels.gpu.gradients import read
from pallas_kernels.gpu.gradients import read_backward
from pallas_kernels.gpu.gradients import step_gradient
from pallas_kernels.gpu.gradients import step_gradient_backward
from pallas_kernels.gpu.inner_loop import inner_loop
from pallas_kernels.gpu.kernels import InnerModel
from pallas_kernels.gpu.tiles import fence
from pallas_kernels.gpu.tiles import times
from pallas_kernels.gpu.tiles import times_transposed
from pallas_kernels.gpu.tiles import transposed_times
from pallas_kernels.gpu.tiling import check_support
from pallas_kernels.gpu.tiling import make_tiling
from pallas_kernels.gpu.tiling import token_dtype
from pallas_kernels.ttt_mlp.specs import NAMES
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens

# Largest sizes that fit a multiprocessor's shared memory, see `_check_fits`.
_MOST_WEIGHTS = 256 * 64
_MOST_HIDDEN_TOKENS = {'bfloat16': 256 * 128, 'float32': 256 * 32}
_MOST_TOKENS = {'bfloat16': 64 * 128, 'float32': 64 * 64}


class State(NamedTuple):
  """Weights of one head's inner MLP, or their cotangents."""

  w1: jax.Array  # [K, D]
  b1: jax.Array  # [K]
  w2: jax.Array  # [K, D]
  b2: jax.Array  # [D]


def ttt_mlp(
  tokens: Tokens,
  weights: tuple[jax.Array, ...],
  norm: Norm,
  *,
  mini_batch: int,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Implements `api.ttt_mlp`; differentiable in reverse mode only.

  Raises:
    NotImplementedError: a size, a dtype or the GPU is not supported.
  """
  *qkv, eta = tokens
  w1, b1, w2, b2 = weights
  batch, heads, length, d = tokens.q.shape
  hidden = w1.shape[-1]
  check_support(dict(zip(NAMES, (*tokens, *weights, *norm))), d, mini_batch)
  if hidden & (hidden - 1) or not 32 <= hidden <= 512:
    raise NotImplementedError(
      f'K={hidden} hidden units: the GPU kernel takes a power of two from 32'
      ' to 512, such as 256'
    )
  dtype = token_dtype(*qkv)
  _check_fits(dtype, d, hidden, mini_batch)
  matrix_size, bias_bytes = 2 * hidden * d, 4 * (hidden + d)
  tiling = make_tiling(
    programs=batch * heads,
    tokens=length,
    mini_batch=mini_batch,
    state_bytes=4 * matrix_size + bias_bytes,
    replay_bytes=2 * (dtype.itemsize * matrix_size + bias_bytes),
  )
  out, state = inner_loop(
    _MODEL,
    tiling,
    Tokens(*(x.astype(dtype) for x in qkv), eta=eta),
    batched_state((w1.mT, b1, w2, b2), (3, 2, 3, 2), batch, jnp.float32),
    norm,
  )
  w1, b1, w2, b2 = state
  return out.astype(tokens.q.dtype), (w1.mT, b1, w2, b2)


def _check_fits(dtype, d, hidden, mini_batch):
  """Raises NotImplementedError if `reverse` exceeds 227 KiB of shared memory.

  The limits were found by compiling for the H100.
  """
  for name, size, limit in (
    ('K D', hidden * d, _MOST_WEIGHTS),
    ('K mini_batch', hidden * mini_batch, _MOST_HIDDEN_TOKENS[dtype.name]),
    ('D mini_batch', d * mini_batch, _MOST_TOKENS[dtype.name]),
  ):
    if size > limit:
      raise NotImplementedError(
        f'{name} = {size} with {dtype.name} tokens (D={d}, K={hidden},'
        f' mini_batch={mini_batch}): the GPU kernel has shared memory for'
        f' {limit}'
      )


def _step(state, k, v, eta, norm, opaque_true):
  """Returns the state after the mini-batch k, v [C, D], eta [C]."""
  w1, b1, w2, b2 = state
  a, slope = gelu_slope(_first(k, state))
  a = fence(a, k.dtype, opaque_true)
  g2, _ = step_gradient(_second(a, state), k, v, eta, norm)
  narrow = g2.astype(k.dtype)
  g1 = slope * times_transposed(w2, narrow)
  return State(
    w1=w1 + times(g1, k),
    b1=b1 + jnp.sum(g1, axis=1),
    w2=w2 + times(a, narrow),
    b2=b2 + jnp.sum(g2, axis=0),
  )


def _read_out(state, q, norm, opaque_true):
  """Returns out = q + LN(f(q; W)) [C, D]."""
  a = fence(gelu(_first(q, state)), q.dtype, opaque_true)
  return read(_second(a, state), q, norm)


def _read_backward(state, q, norm, d_out, opaque_true):
  """Returns the cotangents (d_q, d_state, d_norm) of `_read_out`."""
  a, slope = gelu_slope(_first(q, state))
  a = fence(a, q.dtype, opaque_true)
  d_y2, d_norm = read_backward(_second(a, state), d_out, norm)
  narrow = d_y2.astype(q.dtype)
  d_y1 = slope * times_transposed(state[2], narrow)
  d_state = State(
    w1=times(d_y1, q),
    b1=jnp.sum(d_y1, axis=1),
    w2=times(a, narrow),
    b2=jnp.sum(d_y2, axis=0),
  )
  d_q = d_out.astype(jnp.float32) + _sum_hidden(d_y1.astype(q.dtype), state[0])
  return d_q, d_state, d_norm


def _step_backward(state, k, v, eta, norm, d_next, opaque_true):
  """Returns the cotangents (d_state, d_k, d_v, d_eta, d_norm) of `_step`."""
  d_next = State(*d_next)
  w1, _, w2, _ = state
  dtype = k.dtype

  a, slope, curvature = gelu_slope_curvature(_first(k, state))
  a = fence(a, dtype, opaque_true)
  g2, residuals = step_gradient(_second(a, state), k, v, eta, norm)
  g2 = g2.astype(dtype)
  h = times_transposed(w2, g2)

  # w1' = w1 + g1 k, w2' = w2 + a g2, and their biases; g1 = slope * h
  d_g1 = _first(k, d_next)
  d_k = _sum_hidden((slope * h).astype(dtype), d_next.w1)
  bend = curvature * (d_g1 * h)
  d_h = fence(slope * d_g1, dtype, opaque_true)

  # h = w2 g2^T
  d_g2 = _second(a, d_next) + transposed_times(d_h, w2)
  d_z2, d_e, d_eta, d_norm = step_gradient_backward(residuals, eta, norm, d_g2)
  narrow = d_z2.astype(dtype)

  # z2 = gelu(z1)^T w2 + b2 with z1 = w1 k^T + b1
  d_a = times_transposed(d_next.w2, g2) + times_transposed(w2, narrow)
  d_z1 = fence(slope * d_a + bend, jnp.float32, opaque_true)
  d_k = d_k + d_e + transposed_times(d_z1.astype(dtype), w1)
  d_state = State(
    w1=d_next.w1 + times(d_z1, k),
    b1=d_next.b1 + jnp.sum(d_z1, axis=1),
    w2=d_next.w2 + times(a, narrow) + times(d_h, g2),
    b2=d_next.b2 + jnp.sum(d_z2, axis=0),
  )
  return d_state, d_k, -d_e, d_eta, d_norm


def _first(x, state):
  """Returns (x w1^T + b1)^T [K, C] for x [C, D]."""
  return times_transposed(state[0], x) + state[1][:, None]


def _sum_hidden(x, w):
  """Returns x^T w [C, D] for x [K, C], w [K, D]; x is not transposed."""
  return transposed_times(w.astype(x.dtype), x).T


def _second(a, state):
  """Returns a^T w2 + b2 [C, D] for a [K, C]."""
  return transposed_times(a, state[2]) + state[3][None, :]


_MODEL = InnerModel(
  _step,
  _read_out,
  _read_backward,
  _step_backward,
  warps=(8, 8, 8),
)
