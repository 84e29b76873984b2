"""TTT-MLP for any backend: closed-form inner gradient, one scan."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.arguments import state_dtype
from pallas_kernels.inner_loss import layer_norm
from pallas_kernels.inner_loss import token_loss_gradient
from pallas_kernels.mini_batches import join
from pallas_kernels.mini_batches import split


def gelu_and_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns GELU in its tanh form and its exact derivative, each as x."""
  rate, cubic = math.sqrt(2 / math.pi), 0.044715
  tanh = jnp.tanh(rate * (x + cubic * x**3))
  half = 0.5 * (1 + tanh)
  d_tanh = rate * (1 - tanh**2) * (1 + 3 * cubic * x**2)
  return x * half, half + 0.5 * x * d_tanh


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
  """Returns what `api.ttt_mlp` says.

  The backward pass recomputes each mini-batch from the state before it.
  """
  batch, _, length, _ = q.shape
  mini_batch = min(mini_batch, length)
  dtype = state_dtype(q, k, v, eta, w1, b1, w2, b2, ln_scale, ln_bias)
  scale = ln_scale.astype(dtype)[:, None]
  bias = ln_bias.astype(dtype)[:, None]

  @jax.checkpoint
  def step(state, tokens):
    w1, b1, w2, b2 = state
    q, k, v, eta = (array.astype(dtype) for array in tokens)
    hidden, slope = gelu_and_slope(k @ w1 + b1[:, :, None])
    d_out = eta[..., None] * token_loss_gradient(
        hidden @ w2 + b2[:, :, None], k, v, scale, bias
    )
    d_hidden = slope * (d_out @ w2.mT)
    w1 = w1 - k.mT @ d_hidden
    b1 = b1 - jnp.sum(d_hidden, axis=2)
    w2 = w2 - hidden.mT @ d_out
    b2 = b2 - jnp.sum(d_out, axis=2)
    hidden = jax.nn.gelu(q @ w1 + b1[:, :, None], approximate=True)
    out = q + layer_norm(hidden @ w2 + b2[:, :, None], scale, bias)
    return (w1, b1, w2, b2), out

  state, out = jax.lax.scan(
      step,
      batched_state((w1, b1, w2, b2), (3, 2, 3, 2), batch, dtype),
      tuple(split(array, mini_batch) for array in (q, k, v, eta)),
  )
  return join(out, length).astype(q.dtype), state
