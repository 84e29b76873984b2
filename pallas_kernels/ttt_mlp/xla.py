"""TTT-MLP for any backend: closed-form gradients in a portable loop.

Shapes: q, k, v [B, H, C, D]; eta [B, H, C]; scale, bias [B, H, C, D]. The
second weight is stored like the first, [D, K]: products that write [K, D] are
a third slower on CPU. The names of the forward pass:

    z1 = k w1 + b1        a = gelu(z1)       z2 = a w2^T + b2
    g2 = eta dl/dz2       g1 = gelu'(z1) * (g2 w2)
    w1' = w1 - k^T g1     b1' = b1 - sum g1
    w2' = w2 - g2^T a     b2' = b2 - sum g2
    out = q + LN(gelu(q w1' + b1') w2'^T + b2')
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.arguments import state_dtype
from pallas_kernels.inner_loss import layer_norm
from pallas_kernels.ttt_mlp.gelu import gelu
from pallas_kernels.ttt_mlp.gelu import gelu_slope
from pallas_kernels.ttt_mlp.gelu import gelu_slope_curvature
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
  """Weights of the inner MLP, or their cotangents."""

  w1: jax.Array  # [B, H, D, K]
  b1: jax.Array  # [B, H, K]
  w2: jax.Array  # [B, H, D, K]
  b2: jax.Array  # [B, H, D]


def ttt_mlp(
  tokens: Tokens,
  weights: tuple[jax.Array, ...],
  norm: Norm,
  *,
  mini_batch: int,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Implements `api.ttt_mlp`; differentiable in reverse mode only.

  `portable_loop` describes what the backward pass keeps and recomputes.
  """
  batch = tokens.q.shape[0]
  dtype = state_dtype(*tokens, *weights, *norm)
  w1, b1, w2, b2 = weights
  state = batched_state((w1, b1, w2.mT, b2), (3, 2, 3, 2), batch, dtype)
  norm = Norm(*batched_state(norm, (2, 2), batch, dtype))
  (w1, b1, w2, b2), out = portable_loop(
    InnerModel(learn, read, backward),
    State(*state),
    tokens,
    norm,
    mini_batch,
  )
  return out, (w1, b1, w2.mT, b2)


def learn(state: State, tokens: Tokens, norm: Norm) -> State:
  """Returns the state after the mini-batch."""
  _, k, v, eta = tokens
  a, slope = gelu_slope(_first(k, state))
  g2 = eta[..., None] * loss_gradient(_second(a, state), k, v, *norm).g
  g1 = slope * times(g2, state.w2)
  return State(
    w1=state.w1 - transposed_times(k, g1),
    b1=state.b1 - _sum(g1),
    w2=state.w2 - transposed_times(g2, a),
    b2=state.b2 - _sum(g2),
  )


def read(state: State, q: jax.Array, norm: Norm) -> jax.Array:
  """Returns out [B, H, C, D] from the state after the mini-batch of q."""
  return q + layer_norm(_second(gelu(_first(q, state)), state), *norm)


def backward(
  state: State,
  next_state: State,
  tokens: Tokens,
  norm: Norm,
  d_out: jax.Array,
  d_state: State,
) -> tuple[State, Tokens, Norm]:
  """Returns the cotangents of (state, tokens, norm) of `learn`, then `read`.

  Against autodiff this saves the two products that recompute `next_state`,
  all transposed copies, and the reductions of `inner_loss_backward`.

  Args:
    state: the state before the mini-batch.
    next_state: the state after it.
    tokens: the mini-batch.
    norm: LayerNorm parameters.
    d_out: cotangent of out.
    d_state: cotangent of next_state.
  """
  q, k, v, eta = tokens

  # out = q + LN(gelu(y1) w2'^T + b2') with y1 = q w1' + b1'
  a, slope = gelu_slope(_first(q, next_state))
  d_y2, *d_norm_read = layer_norm_backward(
    _second(a, next_state), norm.scale, d_out
  )
  d_y1 = slope * times(d_y2, next_state.w2)
  d_q = d_out + times_transposed(d_y1, next_state.w1)
  d_next = _add_affine(d_state, q, d_y1, a, d_y2)

  # w1' = w1 - k^T g1, w2' = w2 - g2^T a, and their biases. d_next is now also
  # the first part of d_state.
  a, slope, curvature = gelu_slope_curvature(_first(k, state))
  gradient = loss_gradient(_second(a, state), k, v, *norm)
  g2 = eta[..., None] * gradient.g
  h = times(g2, state.w2)
  d_g1 = -_first(k, d_next)
  d_k = -times_transposed(slope * h, d_next.w1)
  d_a = -times(g2, d_next.w2)

  # g1 = slope * h with h = g2 w2
  d_h = slope * d_g1
  d_g2 = times_transposed(d_h, state.w2) - _second(a, d_next)
  d_z2, *d_norm = loss_gradient_backward(
    gradient, norm.scale, eta[..., None] * d_g2
  )
  d_eta = row_product(gradient.g, d_g2)[..., 0]
  d_target = -d_norm[1]  # The target v - k enters as -bias does.

  # z2 = gelu(z1) w2^T + b2 with z1 = k w1 + b1
  d_a = d_a + times(d_z2, state.w2)
  d_z1 = slope * d_a + curvature * (d_g1 * h)
  d_k = d_k - d_target + times_transposed(d_z1, state.w1)
  d_state = _add_affine(d_next, k, d_z1, a, d_z2)
  d_state = d_state._replace(w2=d_state.w2 + transposed_times(g2, d_h))
  return (
    d_state,
    Tokens(d_q, d_k, d_target, d_eta),
    Norm(*map(jnp.add, d_norm_read, d_norm)),
  )


def _first(x: jax.Array, state: State) -> jax.Array:
  """Returns x w1 + b1, [B, H, C, K]."""
  return times(x, state.w1) + state.b1[..., None, :]


def _second(a: jax.Array, state: State) -> jax.Array:
  """Returns a w2^T + b2, [B, H, C, D]."""
  return times_transposed(a, state.w2) + state.b2[..., None, :]


def _add_affine(
  d_state: State,
  x: jax.Array,
  d_first: jax.Array,
  a: jax.Array,
  d_second: jax.Array,
) -> State:
  """Adds the cotangents of the weights in _first(x) and _second(a)."""
  return State(
    w1=d_state.w1 + transposed_times(x, d_first),
    b1=d_state.b1 + _sum(d_first),
    w2=d_state.w2 + transposed_times(d_second, a),
    b2=d_state.b2 + _sum(d_second),
  )


def _sum(rows: jax.Array) -> jax.Array:
  """Returns the sum over the tokens of a mini-batch."""
  return jnp.sum(rows, axis=-2)
