"""TTT-Linear by definition: the oracle of every other implementation."""

from __future__ import annotations

import jax

from pallas_kernels.arguments import batched_state
from pallas_kernels.arguments import state_dtype
from pallas_kernels.inner_loop import inner_loop
from pallas_kernels.inner_loop import inner_losses
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens


def linear(parameters: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
  """Returns x w + b, [C, D]."""
  w, b = parameters
  return x @ w + b


def ttt_linear(
  tokens: Tokens,
  weights: tuple[jax.Array, ...],
  norm: Norm,
  *,
  mini_batch: int,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Implements `api.ttt_linear` with the inner gradient by `jax.grad`."""
  dtype = state_dtype(*tokens, *weights, *norm)
  out, state = inner_loop(
    linear,
    batched_state(weights, (3, 2), tokens.q.shape[0], dtype),
    *(array.astype(dtype) for array in (*tokens, *norm)),
    mini_batch=mini_batch,
  )
  return out.astype(tokens.q.dtype), state


def ttt_linear_inner_losses(
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  weights: tuple[jax.Array, ...],
  norm: Norm,
  *,
  mini_batch: int,
) -> tuple[jax.Array, jax.Array]:
  """Implements `api.ttt_linear_inner_losses`."""
  dtype = state_dtype(k, v, eta, *weights, *norm)
  return inner_losses(
    linear,
    batched_state(weights, (3, 2), k.shape[0], dtype),
    *(array.astype(dtype) for array in (k, v, eta, *norm)),
    mini_batch=mini_batch,
  )
