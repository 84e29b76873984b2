"""TTT-Linear for any backend: closed-form inner gradient, one scan."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.arguments import state_dtype
from pallas_kernels.inner_loss import layer_norm
from pallas_kernels.inner_loss import token_loss_gradient
from pallas_kernels.mini_batches import join
from pallas_kernels.mini_batches import scan_groups
from pallas_kernels.mini_batches import split
from pallas_kernels.products import times
from pallas_kernels.products import transposed_times


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
  """Returns what `api.ttt_linear` says.

  The backward pass keeps the state before each mini-batch (in long sequences
  of some: `scan_groups`) and recomputes the rest.
  """
  batch, _, length, _ = q.shape
  mini_batch = min(mini_batch, length)
  dtype = state_dtype(q, k, v, eta, w, b, ln_scale, ln_bias)
  scale = ln_scale.astype(dtype)[:, None]
  bias = ln_bias.astype(dtype)[:, None]

  @jax.checkpoint
  def step(state, tokens):
    w, b = state
    q, k, v, eta = (array.astype(dtype) for array in tokens)
    gradient = eta[..., None] * token_loss_gradient(
        times(k, w) + b[:, :, None], k, v, scale, bias
    )
    w = w - transposed_times(k, gradient)
    b = b - jnp.sum(gradient, axis=2)
    out = q + layer_norm(times(q, w) + b[:, :, None], scale, bias)
    return (w, b), out.astype(tokens[0].dtype)

  state, out = scan_groups(
      lambda state, tokens: jax.lax.scan(step, state, tokens),
      batched_state((w, b), (3, 2), batch, dtype),
      tuple(split(array, mini_batch) for array in (q, k, v, eta)),
  )
  return join(out, length), state
