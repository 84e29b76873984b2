"""The gated delta rule in chunks, for any backend.

With d(i, j) = e^(g_{j+1} + ... + g_i), d(i) the decay since the initial state S
of the chunk, and tril the part below the diagonal:

    L = tril(beta_i (k_i . k_j) d(i, j))
    U = (I + L)^-1 beta v            the writes of the tokens if S = 0
    W = (I + L)^-1 beta d(i) k       the corrections of the writes, W S
    P = (q_i . k_j d(i, j))_{j <= i},  D = d(C, i) k_i
    S' = (d(C) I - D^T W) S + D^T U
    o = (d(i) q - P W) S + P U

(UT transform, Yang et al. 2024, arXiv:2406.06484, section 3.) One triangular
system per chunk. All but the states is computed for many chunks at once; for
the states see `affine_scan`. Products that they pass through are not rounded: a
TPU would otherwise take their operands in bfloat16, and 1 - 2^-9 and more as 1,
once per chunk.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.arguments import first_state
from pallas_kernels.xla.affine_scan import affine_scan
from pallas_kernels.xla.chunks import Arrays
from pallas_kernels.xla.chunks import scan_chunks
from pallas_kernels.xla.chunks import segment_sums
from pallas_kernels.xla.triangular import solve_unit_lower

# Smallest g: e^g is 0 in any float below it, and a finite g keeps 0 * g at 0.
_LEAST = -1e9


class Chunk(NamedTuple):
  """The parts of a chunk that do not depend on the state; [n, B, H, ...]."""

  transition: jax.Array  # d(C) I - D^T W, [K, K]
  written: jax.Array  # D^T U, [K, V]
  q: jax.Array  # d(i) q - P W, [C, K]
  out: jax.Array  # P U, [C, V]


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
  return scan_chunks(prepare, advance, read, state, tokens, chunk, v.dtype)


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
  pairs = _products(q, k) * decays
  split = functools.partial(
    jnp.split, indices_or_sections=[v.shape[-1]], axis=-1
  )
  # Transposed keys, decayed until the end.
  k = jnp.swapaxes(until_end * k, -1, -2)
  decay = since_start[..., -1:, :] * jnp.eye(k.shape[-2], dtype=k.dtype)
  exact = jax.lax.Precision.HIGHEST
  written, corrections = split(jnp.matmul(k, solved, precision=exact))
  out, read_corrections = split(pairs @ solved)
  return Chunk(
    transition=decay - corrections,
    written=written,
    q=since_start * q - read_corrections,
    out=out,
  )


def advance(state: jax.Array, chunks: Chunk) -> tuple[jax.Array, jax.Array]:
  """Returns the last state [B, H, K, V], and those before each chunk."""
  return affine_scan(state, chunks.transition, chunks.written)


def read(states: jax.Array, chunks: Chunk) -> jax.Array:
  """Returns the results [n, B, H, C, V] for the states before each chunk."""
  return chunks.q @ states + chunks.out


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns x_i . y_j for all pairs of a chunk, [..., C, C]."""
  return jnp.einsum('...ik,...jk->...ij', x, y)
