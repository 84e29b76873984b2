"""Large-chunk TTT by definition: the oracle of every other implementation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.arguments import state_dtype
from pallas_kernels.inner_loop import scan_mini_batches
from pallas_kernels.large_chunk_ttt.update import add_update
from pallas_kernels.large_chunk_ttt.update import row_norms

Weights = tuple[jax.Array, ...]  # w0, w1, w2


def swiglu(weights: Weights, x: jax.Array) -> jax.Array:
  """Returns w1 (SiLU(w0 x) * (w2 x)) of one head, [C, D] -> [C, V]."""
  w0, w1, w2 = weights
  return (jax.nn.silu(x @ w0.T) * (x @ w2.T)) @ w1.T


def large_chunk_ttt(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  weights: Weights,
  *,
  chunk: int,
  update: str,
  muon: bool,
) -> tuple[jax.Array, Weights]:
  """Implements `api.large_chunk_ttt` with the inner gradient by `jax.grad`."""

  def step(norms, weights, tokens):
    q, *tokens = tokens
    weights = _learn(norms, weights, tokens, update, muon)
    return weights, swiglu(weights, q)

  out, state = _scan(step, weights, (q, k, v, eta), chunk)
  return out.astype(v.dtype), state


def large_chunk_ttt_inner_losses(
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  weights: Weights,
  *,
  chunk: int,
  update: str,
  muon: bool,
) -> tuple[jax.Array, jax.Array]:
  """Implements `api.large_chunk_ttt_inner_losses`."""

  def step(norms, weights, tokens):
    new = _learn(norms, weights, tokens, update, muon)
    losses = [_losses(w, *tokens[:2]).mean() for w in (weights, new)]
    return new, jnp.stack(losses)[None]

  losses, _ = _scan(step, weights, (k, v, eta), chunk)
  return losses[..., 0], losses[..., 1]


def _losses(weights, k, v):
  """Returns -f(k) . v of each token, [C]."""
  return -jnp.sum(swiglu(weights, k) * v, axis=-1)


def _learn(norms, weights, tokens, update, muon):
  """Returns the weights of one head after a chunk."""
  k, v, eta = tokens

  def step(index, rates):
    gradient = jax.grad(lambda w: rates @ _losses(w, k, v))(weights)
    return add_update(weights[index], -gradient[index], norms[index], muon=muon)

  if update == 'last':
    return weights[0], step(1, eta[:, 0]), weights[2]
  return tuple(step(i, eta[:, i]) for i in range(3))


def _scan(step, weights, tokens, chunk):
  """Scans (norms, weights, tokens) -> (weights, rows) over chunks of a head.

  Returns:
    (all rows [B, H, ...], last weights).
  """
  dtype = state_dtype(*tokens, *weights)
  weights = batched_state(weights, (3, 3, 3), tokens[0].shape[0], dtype)

  def one_head(weights, *tokens):
    norms = jax.tree.map(row_norms, weights)
    run = functools.partial(step, norms)
    state, rows = scan_mini_batches(run, weights, tokens, chunk)
    return rows, state

  return jax.vmap(jax.vmap(one_head))(
    weights, *(x.astype(dtype) for x in tokens)
  )
