"""TTT-MLP for any backend: closed-form gradients and a scan each way."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.arguments import state_dtype
from pallas_kernels.mini_batches import join
from pallas_kernels.mini_batches import scan_groups
from pallas_kernels.mini_batches import split
from pallas_kernels.ttt_mlp.step import Norm
from pallas_kernels.ttt_mlp.step import State
from pallas_kernels.ttt_mlp.step import step
from pallas_kernels.ttt_mlp.step import step_backward
from pallas_kernels.ttt_mlp.step import Tokens


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
  """Returns what `api.ttt_mlp` says; reverse-mode differentiable only.

  The backward pass keeps the state before each mini-batch (in long sequences
  of some: `scan_groups`) and recomputes the rest.
  """
  batch, _, length, _ = q.shape
  mini_batch = min(mini_batch, length)
  dtype = state_dtype(q, k, v, eta, w1, b1, w2, b2, ln_scale, ln_bias)
  state = State(
      *batched_state((w1, b1, w2.mT, b2), (3, 2, 3, 2), batch, dtype)
  )
  norm = Norm(
      *batched_state(
          (ln_scale[:, None], ln_bias[:, None]), (3, 3), batch, dtype
      )
  )
  tokens = Tokens(*(split(array, mini_batch) for array in (q, k, v, eta)))
  state, out = scan_groups(
      lambda state, tokens: _loop(state, Tokens(*tokens), norm), state, tokens
  )
  return join(out, length), (state.w1, state.b1, state.w2.mT, state.b2)


@jax.custom_vjp
def _loop(
    state: State, tokens: Tokens, norm: Norm
) -> tuple[State, jax.Array]:
  """Returns (last state, out [N, B, H, C, D]) for tokens [N, ...].

  Tokens and out may be narrower than the state: each mini-batch is widened
  inside the scan, so that the sequence never is.
  """
  return jax.lax.scan(lambda state, t: _widened(state, t, norm), state, tokens)


def _loop_forward(state, tokens, norm):
  def body(state, tokens):
    next_state, out = _widened(state, tokens, norm)
    return next_state, (state, out)

  last, (states, out) = jax.lax.scan(body, state, tokens)
  return (last, out), (states, last, tokens, norm)


def _loop_backward(residuals, cotangents):
  states, last, tokens, norm = residuals
  d_last, d_out = cotangents

  def body(carry, inputs):
    d_state, d_norm, next_state = carry
    state, tokens, d_out = inputs
    d_state, d_tokens, d_norm_here = step_backward(
        state,
        next_state,
        _as(tokens, state.w1.dtype),
        norm,
        d_out.astype(state.w1.dtype),
        d_state,
    )
    d_tokens = jax.tree.map(lambda d, t: d.astype(t.dtype), d_tokens, tokens)
    d_norm = jax.tree.map(jnp.add, d_norm, d_norm_here)
    return (d_state, d_norm, state), d_tokens

  d_norm = jax.tree.map(jnp.zeros_like, norm)
  (d_state, d_norm, _), d_tokens = jax.lax.scan(
      body, (d_last, d_norm, last), (states, tokens, d_out), reverse=True
  )
  return d_state, d_tokens, d_norm


_loop.defvjp(_loop_forward, _loop_backward)


def _widened(state, tokens, norm):
  """Runs `step` in the state's dtype; out has q's dtype."""
  state, out = step(state, _as(tokens, state.w1.dtype), norm)
  return state, out.astype(tokens.q.dtype)


def _as(tokens, dtype):
  """Returns the tokens as `dtype`."""
  return jax.tree.map(lambda array: array.astype(dtype), tokens)
