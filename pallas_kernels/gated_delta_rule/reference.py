"""The gated delta rule by definition: the oracle of the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import first_state


def gated_delta_rule(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  beta: jax.Array,
  g: jax.Array,
  initial_state: jax.Array | None,
  *,
  chunk: int,
) -> tuple[jax.Array, jax.Array]:
  """Implements `api.gated_delta_rule` token by token; `chunk` is not used."""
  del chunk
  state = first_state(
    initial_state, (*q.shape[:2], q.shape[-1], v.shape[-1]), q, k, v, beta, g
  )

  def step(state, token):
    q, k, v, beta, g = (x.astype(state.dtype) for x in token)
    state = jnp.exp(g)[..., None, None] * state
    error = v - jnp.einsum('bhkv,bhk->bhv', state, k)
    state += jnp.einsum('bh,bhk,bhv->bhkv', beta, k, error)
    return state, jnp.einsum('bhkv,bhk->bhv', state, q)

  tokens = [jnp.moveaxis(x, 2, 0) for x in (q, k, v, beta, g)]
  state, out = jax.lax.scan(step, state, tokens)
  return jnp.moveaxis(out, 0, 2).astype(v.dtype), state
