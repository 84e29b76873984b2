"""The public function that permutes the rows of a sequence."""

from __future__ import annotations

import functools

import jax

from pallas_kernels.dispatch import dispatch
from pallas_kernels.permute_rows import pallas_tpu
from pallas_kernels.permute_rows import xla
from pallas_kernels.permute_rows.permutation import Permutation

IMPLEMENTATIONS = {
  'pallas_tpu': pallas_tpu.permute_rows,
  'xla': xla.permute_rows,
}


def permute_rows(
  x: jax.Array,
  permutation: Permutation,
  *,
  implementation: str | None = None,
) -> jax.Array:
  """Reorders the rows of a sequence by a static permutation.

  Efficient for permutations of few long runs of rows that stay neighbours, in
  order or reversed. Differentiable: the gradient's rows are permuted by the
  inverse.

  Args:
    x: [B, T, X].
    permutation: permutation of T rows.
    implementation: None for the best that accepts the arguments, or 'xla',
      'pallas_tpu'.

  Returns:
    [B, T, X], whose row i is row `permutation.index[i]` of x.

  Raises:
    ValueError: x and the permutation have different lengths.
    NotImplementedError: the named implementation does not exist or refuses.

  Example:
    >>> import jax.numpy as jnp
    >>> reverse = Permutation.from_index([2, 1, 0])
    >>> permute_rows(jnp.arange(3.0).reshape(1, 3, 1), reverse).ravel().tolist()
    [2.0, 1.0, 0.0]
  """
  if x.ndim != 3 or x.shape[1] != permutation.length:
    raise ValueError(
      f'x has shape {x.shape}; the permutation needs [B,'
      f' {permutation.length}, X]'
    )
  return _permute(permutation, implementation, x)


# Autodiff would pad and add the slices that make up a permutation.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _permute(permutation, implementation, x):
  return dispatch(
    'permute_rows', IMPLEMENTATIONS, implementation, x, permutation
  )


def _forward(permutation, implementation, x):
  return _permute(permutation, implementation, x), ()


def _backward(permutation, implementation, _, d_y):
  return (_permute(permutation.inverse, implementation, d_y),)


_permute.defvjp(_forward, _backward)
