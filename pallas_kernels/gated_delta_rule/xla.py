"""The gated delta rule in chunks, for any backend.

With d(i, j) = e^(g_{j+1} + ... + g_i), d(i) the decay since the initial state S
of the chunk, and tril the part below the diagonal:

    L = tril(beta_i (k_i . k_j) d(i, j))
    U = (I + L)^-1 beta v            the writes of the tokens if S = 0
    W = (I + L)^-1 beta d(i) k       the corrections of the writes, W S
    R = U - W S
    o = d(i) q S + (q_i . k_j d(i, j))_{j <= i} R
    S' = d(C) S + (d(C, i) k_i)^T R

(UT transform, Yang et al. 2024, arXiv:2406.06484, section 3.) One triangular
system per chunk; all except the last three lines for many chunks at once.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.arguments import first_state
from pallas_kernels.xla.chunks import Arrays
from pallas_kernels.xla.chunks import scan_chunks
from pallas_kernels.xla.chunks import segment_sums
from pallas_kernels.xla.triangular import solve_unit_lower

# Smallest g: e^g is 0 in any float below it, and a finite g keeps 0 * g at 0.
_LEAST = -1e9


class Chunk(NamedTuple):
  """The parts of a chunk that do not depend on the state; [n, B, H, ...]."""

  u: jax.Array  # [C, V]
  w: jax.Array  # [C, K]
  q: jax.Array  # d(i) q, [C, K]
  k: jax.Array  # d(C, i) k, [C, K]
  pairs: jax.Array  # (q_i . k_j) d(i, j), [C, C]
  decay: jax.Array  # d(C), []


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
  """Implements `api.gated_delta_rule`; differentiable in reverse mode."""
  state = first_state(
    initial_state, (*q.shape[:2], q.shape[-1], v.shape[-1]), q, k, v, beta, g
  )
  tokens = dict(q=q, k=k, v=v, beta=beta, g=g)
  return scan_chunks(prepare, step, state, tokens, chunk, v.dtype)


def prepare(tokens: Arrays) -> Chunk:
  """Computes the parts of chunks that do not depend on the state."""
  q, k, v, beta, g = (tokens[name] for name in ('q', 'k', 'v', 'beta', 'g'))
  g = jnp.maximum(g, _LEAST)
  sums = segment_sums(g)
  decays = jnp.exp(sums)
  # Decays from the initial state to each token, and from each to the last.
  since_start = jnp.exp(sums[..., 0] + g[..., :1])[..., None]
  until_end = decays[..., -1, :, None]
  c = beta.shape[-1]
  lower = jnp.where(
    np.tri(c, k=-1, dtype=bool),
    beta[..., None] * _products(k, k) * decays,
    0,
  )
  solved = solve_unit_lower(
    lower, beta[..., None] * jnp.concatenate([v, since_start * k], axis=-1)
  )
  return Chunk(
    u=solved[..., : v.shape[-1]],
    w=solved[..., v.shape[-1] :],
    q=since_start * q,
    k=until_end * k,
    pairs=_products(q, k) * decays,
    decay=since_start[..., -1, 0],
  )


def step(state: jax.Array, chunk: Chunk) -> tuple[jax.Array, jax.Array]:
  """Returns (next state, out [B, H, C, V]) of a state [B, H, K, V]."""
  written = chunk.u - chunk.w @ state
  out = chunk.q @ state + chunk.pairs @ written
  state = chunk.decay[..., None, None] * state
  return state + jnp.einsum('bhck,bhcv->bhkv', chunk.k, written), out


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns x_i . y_j for all pairs of a chunk, [..., C, C]."""
  return jnp.einsum('...ik,...jk->...ij', x, y)
