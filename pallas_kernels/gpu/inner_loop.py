"""The inner loop on a GPU, differentiable: a custom VJP.

Each direction calls the kernels of `kernels.py`. The backward pass processes
the sequence in spans, last to first, so that the replayed states of only one
span at a time need memory.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.gpu import kernels
from pallas_kernels.gpu.kernels import InnerModel
from pallas_kernels.gpu.kernels import State
from pallas_kernels.gpu.tiling import Tiling
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def inner_loop(
  model: InnerModel,
  tiling: Tiling,
  tokens: Tokens,
  state: State,
  norm: Norm,
) -> tuple[jax.Array, State]:
  """Returns (out [B, H, T, D], last state), in the dtypes of q and state.

  Args:
    model: the inner model.
    tiling: sizes of mini-batch, group and span.
    tokens: q, k, v [B, H, T, D] of one dtype, eta [B, H, T].
    state: arrays [B, H, ...], float32.
    norm: scale and bias [H, D].
  """
  out, *last = kernels.forward(
    model, tiling, tokens, state, norm, checkpoints=False
  )
  return out, tuple(last)


def _inner_loop_forward(model, tiling, tokens, state, norm):
  results = kernels.forward(
    model, tiling, tokens, state, norm, checkpoints=True
  )
  out, last = results[0], results[1 : 1 + len(state)]
  return (out, tuple(last)), (tokens, norm, results[1 + len(state) :])


def _inner_loop_backward(model, tiling, residuals, cotangents):
  tokens, norm, checkpoints = residuals
  d_out, d_state = cotangents

  def span(carry, index):
    d_state, d_tokens = carry
    index = index[None]
    d_q, *rest = kernels.replay(
      model, tiling, index, tokens, norm, checkpoints, d_out, d_tokens[0]
    )
    parts = len(checkpoints)
    states, reads, d_norm_read = rest[:parts], rest[parts:-2], rest[-2:]
    results = kernels.reverse(
      model, tiling, index, tokens, norm, states, reads, d_state, d_tokens[1:]
    )
    d_state, d_norm = tuple(results[3:-2]), results[-2:]
    d_norm = tuple(
      jnp.sum(x, axis=(0, 2)) + jnp.sum(y, axis=0)
      for x, y in zip(d_norm_read, d_norm)
    )
    return (d_state, (d_q, *results[:3])), d_norm

  zeros = tuple(jnp.zeros(x.shape, x.dtype) for x in tokens)
  (d_state, d_tokens), d_norm = jax.lax.scan(
    span,
    (tuple(d_state), zeros),
    jnp.arange(tiling.spans, dtype=jnp.int32),
    reverse=True,
  )
  d_norm = (jnp.sum(d, axis=0).astype(x.dtype) for d, x in zip(d_norm, norm))
  return Tokens(*d_tokens), d_state, Norm(*d_norm)


inner_loop.defvjp(_inner_loop_forward, _inner_loop_backward)
