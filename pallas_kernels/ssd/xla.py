"""Mamba 2's recurrence in chunks, for any backend.

With d(i, j) = e^(a (dt_{j+1} + ... + dt_i)) and d(i) the decay since the
initial state h of the chunk:

    y = (c_i . b_j d(i, j))_{j <= i} dt x + d(i) c h^T
    h' = d(C) h + (dt x)^T (d(C, i) b)

(Dao & Gu 2024, arXiv:2405.21060, section 6: block decomposition.)
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import first_state
from pallas_kernels.xla.affine_scan import decay_scan
from pallas_kernels.xla.chunks import Arrays
from pallas_kernels.xla.chunks import scan_chunks
from pallas_kernels.xla.chunks import segment_sums


class Chunk(NamedTuple):
  """The parts of a chunk that do not depend on the state; [n, B, H, ...]."""

  out: jax.Array  # y without the state, [C, P]
  written: jax.Array  # (dt x)^T (d(C, i) b), [P, N]
  c: jax.Array  # [C, N], of the head's group
  since_start: jax.Array  # d(i), [C]
  log_decay: jax.Array  # of the complete chunk, []


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
  """Implements `api.ssd`; differentiable in reverse mode."""
  state = first_state(
    initial_state, (*x.shape[:2], x.shape[-1], b.shape[-1]), x, dt, a, b, c
  )
  out, state = scan_chunks(
    functools.partial(prepare, a=a.astype(state.dtype)),
    advance,
    read,
    state,
    dict(x=x, dt=dt, b=b, c=c),
    chunk,
    x.dtype if d is None else state.dtype,
  )
  if d is not None:
    out += d.astype(out.dtype)[:, None, None] * x
  return out.astype(x.dtype), state


def prepare(tokens: Arrays, a: jax.Array) -> Chunk:
  """Computes the parts of chunks that do not depend on the state."""
  x, dt, b, c = (tokens[name] for name in ('x', 'dt', 'b', 'c'))
  heads, groups = x.shape[2], b.shape[2]
  log_decay = a[:, None] * dt
  sums = segment_sums(log_decay)
  decays = jnp.exp(sums)
  # Products of directions are shared by a group; each head has its own decays.
  pairs = jnp.einsum('nbgim,nbgjm->nbgij', c, b)
  share = lambda y: jnp.repeat(y, heads // groups, axis=2)
  x = dt[..., None] * x
  until_end = decays[..., -1, :, None]
  since_start = sums[..., 0] + log_decay[..., :1]
  return Chunk(
    out=(share(pairs) * decays) @ x,
    written=jnp.einsum('nbhcp,nbhcm->nbhpm', x, until_end * share(b)),
    c=share(c),
    since_start=jnp.exp(since_start),
    log_decay=since_start[..., -1],
  )


def advance(state: jax.Array, chunks: Chunk) -> tuple[jax.Array, jax.Array]:
  """Returns the last state [B, H, P, N], and those before each chunk."""
  return decay_scan(state, chunks.log_decay, chunks.written)


def read(states: jax.Array, chunks: Chunk) -> jax.Array:
  """Returns y [n, B, H, C, P] for the states [n, B, H, P, N]."""
  y = jnp.einsum('nbhcm,nbhpm->nbhcp', chunks.c, states)
  return chunks.out + chunks.since_start[..., None] * y
