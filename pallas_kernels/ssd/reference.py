"""Mamba 2's recurrence by definition: the oracle of the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import first_state


def ssd(
  x: jax.Array,
  dt: jax.Array,
  a: jax.Array,
  b: jax.Array,
  c: jax.Array,
  d: jax.Array | None,
  initial_state: jax.Array | None,
  *,
  chunk: int,
) -> tuple[jax.Array, jax.Array]:
  """Implements `api.ssd` token by token; `chunk` is not used."""
  del chunk
  heads = x.shape[1]
  state = first_state(
    initial_state, (*x.shape[:2], x.shape[-1], b.shape[-1]), x, dt, a, b, c
  )
  a = a.astype(state.dtype)
  b, c = (jnp.repeat(y, heads // y.shape[1], axis=1) for y in (b, c))

  def step(state, token):
    x, dt, b, c = (y.astype(state.dtype) for y in token)
    state = jnp.exp(a * dt)[..., None, None] * state
    state += jnp.einsum('bh,bhp,bhn->bhpn', dt, x, b)
    return state, jnp.einsum('bhpn,bhn->bhp', state, c)

  tokens = [jnp.moveaxis(y, 2, 0) for y in (x, dt, b, c)]
  state, out = jax.lax.scan(step, state, tokens)
  out = jnp.moveaxis(out, 0, 2)
  if d is not None:
    out += d.astype(out.dtype)[:, None, None] * x
  return out.astype(x.dtype), state
