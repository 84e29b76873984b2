"""The frame-wise delta rule for any backend.

    M = Diag(alpha) (I + A)^-1,  J = B (I + A)^-1     for many frames at once
    S' = S M + J,  o = S' q                           frame by frame

with A = K^T Diag(beta) K and B = V^T Diag(beta) K. I + A is symmetric with
eigenvalues of at least 1, and has to be so after rounding: A is computed in
float32 from products that are not rounded and made symmetric.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.arguments import first_state
from pallas_kernels.xla import chunks
from pallas_kernels.xla import positive_definite

_EXACT = jax.lax.Precision.HIGHEST


class Frame(NamedTuple):
  """What a step requires of a frame; [n, B, H, ...]."""

  q: jax.Array  # [P, K]
  transition: jax.Array  # M, [K, K]
  injection: jax.Array  # J, [V, K]


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
  """Implements `api.frame_delta_rule`; differentiable in reverse mode."""
  sizes = v.shape[-1], k.shape[-1]
  state = first_state(initial_state, (*q.shape[:2], *sizes), q, k, v, beta, g)
  tokens = [_take(x, lengths) for x in (q, k, v, beta)]

  def run(state, frame):
    state, out = step(state, frame)
    return state, out.astype(v.dtype)

  per_frame = sum(x[0].size for x in tokens) + state.size * (
    4 + 6 * sizes[1] // sizes[0]
  )
  out, state = chunks.scan_groups(
    prepare,
    run,
    state,
    (*tokens, jnp.moveaxis(g, 2, 0).astype(state.dtype)),
    kept_bytes=per_frame * state.dtype.itemsize,
  )
  return _put(out, lengths), state


def prepare(frames: tuple[jax.Array, ...]) -> Frame:
  """Computes what does not depend on the state, for n frames at once."""
  q, k, v, beta, g = frames
  k, v = k.astype(g.dtype), v.astype(g.dtype)
  written = beta[..., None] * k
  a = jnp.einsum('nbhtk,nbhtl->nbhkl', written, k, precision=_EXACT)
  identity = np.eye(k.shape[-1], dtype=g.dtype)
  inverse = positive_definite.inverse(identity + (a + a.swapaxes(-1, -2)) / 2)
  b = jnp.einsum('nbhtv,nbhtk->nbhvk', v, written)
  return Frame(
    q,
    transition=jnp.exp(g)[..., None] * inverse,
    # What many similar keys wrote is large in b and small in the product.
    injection=jnp.matmul(b, inverse, precision=_EXACT),
  )


def step(state: jax.Array, frame: Frame) -> tuple[jax.Array, jax.Array]:
  """Returns (next state, out [B, H, P, V]) of a state [B, H, V, K]."""
  state = jnp.matmul(state, frame.transition, precision=_EXACT)
  state += frame.injection
  q = frame.q.astype(state.dtype)
  return state, jnp.einsum('bhtk,bhvk->bhtv', q, state)


def _take(x: jax.Array, lengths: tuple[int, ...]) -> jax.Array:
  """Cuts [B, H, T, ...] into frames [N, B, H, P, ...] of the largest length P.

  Zeros follow the end of a shorter frame.
  """
  size = max(lengths)
  if set(lengths[:-1]) <= {size}:
    return chunks.cut(x, size)
  ends = np.cumsum(lengths)[:, None]
  begins = ends - np.array(lengths)[:, None]
  starts = np.minimum(begins[:, 0], x.shape[2] - size)
  at = starts[:, None] + np.arange(size)
  inside = (begins <= at) & (at < ends)
  frames = jax.vmap(
    lambda start: jax.lax.dynamic_slice_in_dim(x, start, size, 2)
  )(starts)
  inside = inside.reshape(-1, 1, 1, size, *(1,) * (x.ndim - 3))
  return jnp.where(inside, frames, 0)


def _put(frames: jax.Array, lengths: tuple[int, ...]) -> jax.Array:
  """Inverts `_take`, of which it is the transpose."""
  shape = (*frames.shape[1:3], sum(lengths), *frames.shape[4:])
  transpose = jax.linear_transpose(
    lambda x: _take(x, lengths), jax.ShapeDtypeStruct(shape, frames.dtype)
  )
  return transpose(frames)[0]
