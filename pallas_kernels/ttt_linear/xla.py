"""TTT-Linear for any backend: closed-form inner gradient, portable loop.

One mini-batch, with f(x) = x w + b:

    g = eta dl/dz at z = k w + b
    w' = w - k^T g      b' = b - sum g
    out = q + LN(q w' + b')
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.arguments import state_dtype
from pallas_kernels.inner_loss import layer_norm
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens
from pallas_kernels.xla.inner_loss_backward import layer_norm_backward
from pallas_kernels.xla.inner_loss_backward import loss_gradient
from pallas_kernels.xla.inner_loss_backward import loss_gradient_backward
from pallas_kernels.xla.portable_loop import InnerModel
from pallas_kernels.xla.portable_loop import portable_loop
from pallas_kernels.xla.products import row_product
from pallas_kernels.xla.products import times
from pallas_kernels.xla.products import times_transposed
from pallas_kernels.xla.products import transposed_times


class State(NamedTuple):
  """Weights of the inner model, or their cotangents."""

  w: jax.Array  # [B, H, D, D]
  b: jax.Array  # [B, H, D]


def ttt_linear(
  tokens: Tokens,
  weights: tuple[jax.Array, ...],
  norm: Norm,
  *,
  mini_batch: int,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Implements `api.ttt_linear`; differentiable in reverse mode only.

  `portable_loop` describes what the backward pass keeps and recomputes.
  """
  batch = tokens.q.shape[0]
  dtype = state_dtype(*tokens, *weights, *norm)
  norm = Norm(*batched_state(norm, (2, 2), batch, dtype))
  state, out = portable_loop(
    InnerModel(learn, read, backward),
    State(*batched_state(weights, (3, 2), batch, dtype)),
    tokens,
    norm,
    mini_batch,
  )
  return out, tuple(state)


def learn(state: State, tokens: Tokens, norm: Norm) -> State:
  """Returns the state after the mini-batch."""
  _, k, v, eta = tokens
  g = eta[..., None] * loss_gradient(_model(k, state), k, v, *norm).g
  return _add_affine(state, k, -g)


def read(state: State, q: jax.Array, norm: Norm) -> jax.Array:
  """Returns out [B, H, C, D] from the state after the mini-batch of q."""
  return q + layer_norm(_model(q, state), *norm)


def backward(
  state: State,
  next_state: State,
  tokens: Tokens,
  norm: Norm,
  d_out: jax.Array,
  d_next: State,
) -> tuple[State, Tokens, Norm]:
  """Returns the cotangents of (state, tokens, norm) of `learn`, then `read`."""
  q, k, v, eta = tokens

  # out = q + LN(q w' + b')
  d_y, *d_norm_read = layer_norm_backward(
    _model(q, next_state), norm.scale, d_out
  )
  d_q = d_out + times_transposed(d_y, next_state.w)
  d_next = _add_affine(d_next, q, d_y)

  # w' = w - k^T g, b' = b - sum g
  forward = loss_gradient(_model(k, state), k, v, *norm)
  d_g = -_model(k, d_next)
  d_k = -times_transposed(eta[..., None] * forward.g, d_next.w)
  d_z, *d_norm = loss_gradient_backward(
    forward, norm.scale, eta[..., None] * d_g
  )
  d_eta = row_product(forward.g, d_g)[..., 0]
  d_target = -d_norm[1]  # The target v - k enters as -bias does.

  # z = k w + b
  d_k = d_k - d_target + times_transposed(d_z, state.w)
  return (
    _add_affine(d_next, k, d_z),
    Tokens(d_q, d_k, d_target, d_eta),
    Norm(*map(jnp.add, d_norm_read, d_norm)),
  )


def _model(x: jax.Array, state: State) -> jax.Array:
  """Returns x w + b, [B, H, C, D]."""
  return times(x, state.w) + state.b[..., None, :]


def _add_affine(state: State, x: jax.Array, rows: jax.Array) -> State:
  """Adds x^T rows to the weight and the sum of the rows to the bias."""
  return State(
    w=state.w + transposed_times(x, rows),
    b=state.b + jnp.sum(rows, axis=-2),
  )
