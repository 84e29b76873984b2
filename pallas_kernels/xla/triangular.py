"""Unit lower-triangular systems, solved by products alone.

XLA solves a triangular system row by row, and on CPUs by LAPACK, whose batches
wait for threads of a pool: simulated devices that call it at the same time wait
for each other without end.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def solve_unit_lower(lower: jax.Array, rhs: jax.Array) -> jax.Array:
  """Returns (I + lower)^-1 rhs; differentiable in reverse mode.

  Args:
    lower: [..., C, C], zero on and above the diagonal.
    rhs: [..., C, V].

  Returns:
    [..., C, V].
  """
  return _forward(lower, rhs)[0]


def _inverse(lower):
  """Returns (I + lower)^-1."""
  return jax.lax.platform_dependent(
    lower,
    tpu=functools.partial(by_halves, size=16),
    default=functools.partial(by_halves, size=8),
  )


def by_halves(lower: jax.Array, size: int) -> jax.Array:
  """Returns (I + lower)^-1, from the inverses of its two diagonal blocks.

  Args:
    lower: [..., C, C], zero on and above the diagonal.
    size: Most rows of the blocks that `by_rows` inverts.
  """
  c = lower.shape[-1]
  if c <= size:
    return by_rows(lower)
  if c % 2:
    padding = [(0, 0)] * (lower.ndim - 2) + [(0, 1)] * 2
    return by_halves(jnp.pad(lower, padding), size)[..., :c, :c]
  first, last = slice(c // 2), slice(c // 2, None)
  blocks = jnp.stack([lower[..., first, first], lower[..., last, last]])
  upper_left, lower_right = by_halves(blocks, size)
  corner = -_einsum(
    '...ij,...jk,...kl->...il', lower_right, lower[..., last, first], upper_left
  )
  return jnp.block(
    [[upper_left, jnp.zeros_like(corner)], [corner, lower_right]]
  )


def by_rows(lower: jax.Array) -> jax.Array:
  """Returns (I + lower)^-1, row by row for all matrices at once.

  A TPU computes with tiles of 8 by 128 numbers. Here the last axis counts the
  matrices; products of small matrices would leave most of a tile empty.
  """
  c = lower.shape[-1]
  factors = jnp.moveaxis(lower.reshape(-1, c, c), 0, -1)
  identity = jnp.eye(c, dtype=lower.dtype)
  inverse = jnp.broadcast_to(identity[..., None], factors.shape)

  def subtract(i, inverse):
    return inverse.at[i].add(-(factors[i][:, None] * inverse).sum(0))

  inverse = jax.lax.fori_loop(1, c, subtract, inverse)
  return jnp.moveaxis(inverse, -1, 0).reshape(lower.shape)


def _forward(lower, rhs):
  inverse = _inverse(lower)
  x = _einsum('...ij,...jv->...iv', inverse, rhs)
  return x, (inverse, x)


def _backward(residuals, d_x):
  inverse, x = residuals
  d_rhs = _einsum('...ji,...jv->...iv', inverse, d_x)
  return jnp.tril(-_einsum('...iv,...jv->...ij', d_rhs, x), -1), d_rhs


solve_unit_lower.defvjp(_forward, _backward)
