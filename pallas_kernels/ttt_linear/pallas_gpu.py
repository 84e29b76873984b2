"""TTT-Linear on NVIDIA Hopper: the equations on tiles of one head.

    z [C, D] = k w + b           g [C, D] = -eta dl/dz
    w' = w + k^T g               b' = b + sum of g
    out = q + LN(q w' + b')

The step g is stored negative: then the tensor cores add the update to the
state in place. `pallas_kernels/gpu/kernels.py` holds the loops over
mini-batches around this.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.gpu.gradients import read
from pallas_kernels.gpu.gradients import read_backward
from pallas_kernels.gpu.gradients import step_gradient
from pallas_kernels.gpu.gradients import step_gradient_backward
from pallas_kernels.gpu.kernels import Inner
from pallas_kernels.gpu.plan import check_support
from pallas_kernels.gpu.plan import make_plan
from pallas_kernels.gpu.plan import token_dtype
from pallas_kernels.gpu.tiles import times
from pallas_kernels.gpu.tiles import times_transposed
from pallas_kernels.gpu.tiles import transposed_times
from pallas_kernels.gpu.walk import walk

# Beyond, the backward pass needs more than 227 KiB of shared memory.
_MOST_TILE_BYTES = 65536


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
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Returns what `api.ttt_linear` says; reverse-mode differentiable only.

  Raises:
    NotImplementedError: a size, a dtype or the GPU is not supported.
  """
  batch, heads, length, d = q.shape
  check_support(
    dict(q=q, k=k, v=v, eta=eta, w=w, b=b, ln_scale=ln_scale, ln_bias=ln_bias),
    d,
    mini_batch,
  )
  dtype = token_dtype(q, k, v)
  if dtype.itemsize * d * mini_batch > _MOST_TILE_BYTES:
    raise NotImplementedError(
      f'D={d}, mini_batch={mini_batch} with {dtype.name} tokens: the GPU'
      f' kernel has shared memory for {_MOST_TILE_BYTES // dtype.itemsize}'
      ' numbers of a mini-batch'
    )
  plan = make_plan(
    batch * heads,
    length,
    mini_batch,
    4 * (d * d + d),
    2 * (dtype.itemsize * d * d + 4 * d),
  )
  out, state = walk(
    _INNER,
    plan,
    (q.astype(dtype), k.astype(dtype), v.astype(dtype), eta),
    batched_state((w, b), (3, 2), batch, jnp.float32),
    (ln_scale, ln_bias),
  )
  return out.astype(q.dtype), state


def _step(state, k, v, eta, norm, always):
  """Returns the state after the mini-batch k, v [C, D], eta [C]."""
  del always  # For `tiles.settle`, which nothing here needs.
  w, b = state
  g, _ = step_gradient(_affine(k, state), k, v, eta, norm)
  return w + transposed_times(k, g), b + jnp.sum(g, axis=0)


def _read_out(state, q, norm, always):
  """Returns out = q + LN(q w + b) [C, D]."""
  del always
  return read(_affine(q, state), q, norm)


def _read_backward(state, q, norm, d_out, always):
  """Returns the cotangents (d_q, d_state, d_norm) of `_read_out`."""
  del always
  d_y, d_norm = read_backward(_affine(q, state), d_out, norm)
  narrow = d_y.astype(q.dtype)
  d_q = d_out.astype(jnp.float32) + times_transposed(narrow, state[0])
  return d_q, (transposed_times(q, narrow), jnp.sum(d_y, axis=0)), d_norm


def _step_backward(state, k, v, eta, norm, d_next, always):
  """Returns the cotangents (d_state, d_k, d_v, d_eta, d_norm) of `_step`."""
  del always
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


_INNER = Inner(
  _step, _read_out, _read_backward, _step_backward, warps=(4, 4, 4)
)
