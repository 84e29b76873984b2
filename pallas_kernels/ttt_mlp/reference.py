"""TTT-MLP by definition: the yardstick of every other implementation."""

from __future__ import annotations

import jax

from pallas_kernels.arguments import batched_state
from pallas_kernels.arguments import state_dtype
from pallas_kernels.inner_loop import inner_loop
from pallas_kernels.inner_loop import inner_losses


def mlp(parameters: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
  """Returns gelu(x w1 + b1) w2 + b2 with the tanh form of GELU, [C, D]."""
  w1, b1, w2, b2 = parameters
  return jax.nn.gelu(x @ w1 + b1, approximate=True) @ w2 + b2


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
  """Returns what `api.ttt_mlp` says, with the inner gradient by `jax.grad`."""
  dtype = state_dtype(q, k, v, eta, w1, b1, w2, b2, ln_scale, ln_bias)
  out, state = inner_loop(
    mlp,
    batched_state((w1, b1, w2, b2), (3, 2, 3, 2), q.shape[0], dtype),
    *(array.astype(dtype) for array in (q, k, v, eta, ln_scale, ln_bias)),
    mini_batch=mini_batch,
  )
  return out.astype(q.dtype), state


def ttt_mlp_inner_losses(
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
) -> tuple[jax.Array, jax.Array]:
  """Returns what `api.ttt_mlp_inner_losses` says."""
  dtype = state_dtype(k, v, eta, w1, b1, w2, b2, ln_scale, ln_bias)
  return inner_losses(
    mlp,
    batched_state((w1, b1, w2, b2), (3, 2, 3, 2), k.shape[0], dtype),
    *(array.astype(dtype) for array in (k, v, eta, ln_scale, ln_bias)),
    mini_batch=mini_batch,
  )
