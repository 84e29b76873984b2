"""The inverse of symmetric positive definite matrices, by products alone.

XLA factorises column by column, and on CPUs by LAPACK, with the same danger for
simulated devices as in `pallas_kernels.xla.triangular`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
# Rows that one step of the inversion eliminates.
_BLOCK = 16


@jax.custom_vjp
def inverse(a: jax.Array) -> jax.Array:
  """Returns a^-1; differentiable in reverse mode.

  Args:
    a: Symmetric positive definite, [..., K, K], float32 or wider.

  Returns:
    [..., K, K]. As exact as after a Cholesky factorisation: relative errors
    grow with the condition number of a, not with its square.
  """
  x = -_sweep_all(a, _BLOCK)
  # Sweeps alone are less exact where a is badly conditioned; with one step of
  # Newton's iteration they are not.
  return x + _matmul(x, np.eye(a.shape[-1], dtype=a.dtype) - _matmul(a, x))


def _backward(x, d_x):
  x = jnp.swapaxes(x, -1, -2)
  return (-_matmul(_matmul(x, d_x), x),)


inverse.defvjp(lambda a: (inverse(a),) * 2, _backward)


def _sweep_all(a: jax.Array, block: int) -> jax.Array:
  """Returns -a^-1 for a [..., K, K], by sweeps of `block` rows at a time.

  The sweep of rows r with the pivot D = a_rr^-1 takes

      a_ij <- a_ij - a_ir D a_rj;  a_rj <- D a_rj;  a_ir <- a_ir D;  a_rr <- -D

  and all sweeps together leave -a^-1 (Goodnight 1979, for single rows).
  """
  size = a.shape[-1]
  block = min(block, size)
  fill = -size % block
  a = jnp.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, fill)] * 2)
  a += np.diag(np.arange(size + fill) >= size).astype(a.dtype)
  transpose = lambda x: jnp.swapaxes(x, -1, -2)
  product = jnp.multiply if block == 1 else _matmul

  def sweep(step, a):
    start = step * block
    rows = jax.lax.dynamic_slice_in_dim(a, start, block, -2)
    pivot = jax.lax.dynamic_slice_in_dim(rows, start, block, -1)
    pivot = -1 / pivot if block == 1 else _sweep_all(pivot, 1)  # -D
    scaled = -product(pivot, rows)
    a -= product(transpose(rows), scaled)
    a = jax.lax.dynamic_update_slice_in_dim(a, scaled, start, -2)
    a = jax.lax.dynamic_update_slice_in_dim(a, transpose(scaled), start, -1)
    at = (0,) * (a.ndim - 2) + (start, start)
    return jax.lax.dynamic_update_slice(a, pivot, at)

  steps = (size + fill) // block
  return jax.lax.fori_loop(0, steps, sweep, a)[..., :size, :size]
