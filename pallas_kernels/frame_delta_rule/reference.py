"""The frame-wise delta rule by definition: the oracle of the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.arguments import first_state


def frame_delta_rule(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  beta: jax.Array,
  g: jax.Array,
  initial_state: jax.Array | None,
  *,
  lengths: tuple[int, ...],
) -> tuple[jax.Array, jax.Array]:
  """Implements `api.frame_delta_rule` frame by frame."""
  state = first_state(
    initial_state, (*q.shape[:2], v.shape[-1], k.shape[-1]), q, k, v, beta, g
  )
  arrays = [x.astype(state.dtype) for x in (q, k, v, beta)]
  outs = []
  ends = np.cumsum(lengths)
  for n, (end, length) in enumerate(zip(ends, lengths)):
    q, k, v, beta = (x[:, :, end - length : end] for x in arrays)
    a = jnp.einsum('bhtk,bht,bhtl->bhkl', k, beta, k)
    b = jnp.einsum('bhtv,bht,bhtk->bhvk', v, beta, k)
    state = state * jnp.exp(g[:, :, n, None].astype(state.dtype)) + b
    # S (I + A) = right-hand side; A is symmetric.
    state = jnp.linalg.solve(jnp.eye(a.shape[-1]) + a, state.swapaxes(-1, -2))
    state = state.swapaxes(-1, -2)
    outs.append(jnp.einsum('bhvk,bhtk->bhtv', state, q))
  return jnp.concatenate(outs, axis=2).astype(v.dtype), state
