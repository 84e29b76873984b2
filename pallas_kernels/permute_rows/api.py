"""The public function of the permutation of rows."""

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
  """Puts the rows of a sequence into another, fixed order.

  Made for few long runs of rows that stay neighbours, forwards or backwards.
  Differentiable: the gradient's rows go back by the inverse.

  Args:
    x: [B, T, X].
    permutation: of T rows.
    implementation: None for the best that accepts the arguments, or 'xla',
      'pallas_tpu'.

  Returns:
    [B, T, X], row i of it row `permutation.index[i]` of x.

  Raises:
    ValueError: x and the permutation do not fit each other.
    NotImplementedError: the implementation named does not exist or refuses.
  """
  if x.ndim != 3 or x.shape[1] != permutation.length:
    raise ValueError(
      f'x has shape {x.shape}; the permutation needs [B,'
      f' {permutation.length}, X]'
    )
  return _permute(permutation, implementation, x)


# Autodiff would pad and add up the slices that a permutation is made of.
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
