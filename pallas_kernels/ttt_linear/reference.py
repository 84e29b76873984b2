"""TTT-Linear by definition: the yardstick of every other implementation."""

from __future__ import annotations

import jax

from pallas_kernels.arguments import batched_state
from pallas_kernels.arguments import state_dtype
from pallas_kernels.inner_loop import inner_loop
from pallas_kernels.inner_loop import inner_losses


def linear(parameters: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
  """Returns x w + b, [C, D]."""
  w, b = parameters
  return x @ w + b


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
  """Returns what `api.ttt_linear` says, with the gradient by `jax.grad`."""
  dtype = state_dtype(q, k, v, eta, w, b, ln_scale, ln_bias)
  out, state = inner_loop(
    linear,
    batched_state((w, b), (3, 2), q.shape[0], dtype),
    *(array.astype(dtype) for array in (q, k, v, eta, ln_scale, ln_bias)),
    mini_batch=mini_batch,
  )
  return out.astype(q.dtype), state


def ttt_linear_inner_losses(
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  w: jax.Array,
  b: jax.Array,
  ln_scale: jax.Array,
  ln_bias: jax.Array,
  *,
  mini_batch: int,
) -> tuple[jax.Array, jax.Array]:
  """Returns what `api.ttt_linear_inner_losses` says."""
  dtype = state_dtype(k, v, eta, w, b, ln_scale, ln_bias)
  return inner_losses(
    linear,
    batched_state((w, b), (3, 2), k.shape[0], dtype),
    *(array.astype(dtype) for array in (k, v, eta, ln_scale, ln_bias)),
    mini_batch=mini_batch,
  )
