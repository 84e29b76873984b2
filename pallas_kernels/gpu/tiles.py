"""Tiles of one program: loads, stores and matrix products.

A product converts its operands to the narrower dtype of the two, that of the
tokens, and accumulates in float32. With float32 tokens it is a sum of six
bfloat16 products (each operand split into three parts): as exact as a float32
product, and still on the tensor cores.
"""

from __future__ import annotations

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

_FLOAT32_PRODUCT = jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6


def times(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns a b [I, L] for a [I, J], b [J, L]."""
  return _product(a, b, 1, 0)


def times_transposed(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns a b^T [I, L] for a [I, J], b [L, J]."""
  return _product(a, b, 1, 1)


def transposed_times(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns a^T b [I, L] for a [J, I], b [J, L]."""
  return _product(a, b, 0, 0)


def make_opaque_true() -> jax.Array:
  """Returns true, computed so that the compiler cannot derive it.

  Call it outside of all loops of a kernel.
  """
  return pl.program_id(0) < pl.num_programs(0)


def fence(x: jax.Array, dtype: jnp.dtype, opaque_true: jax.Array) -> jax.Array:
  """Returns x as dtype, from a branch that is always taken.

  XLA's Triton compiler hoists the transposition of an operand above all
  element-wise operations, and computes those twice where the operand is also
  used untransposed. It does not hoist it out of a branch.

  Args:
    x: array.
    dtype: dtype of the result.
    opaque_true: result of `make_opaque_true`.
  """
  return jax.lax.cond(
    opaque_true,
    lambda: x.astype(dtype),
    lambda: jnp.zeros(x.shape, dtype),
  )


def _product(a, b, axis_a, axis_b):
  """Contracts axis_a with axis_b in the narrower dtype of the two."""
  dtype = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
  return jax.lax.dot_general(
    a.astype(dtype),
    b.astype(dtype),
    (((axis_a,), (axis_b,)), ((), ())),
    precision=_FLOAT32_PRODUCT if dtype == jnp.float32 else None,
    preferred_element_type=jnp.float32,
  )


def load_rows(ref: jax.Ref, n: jax.Array, mini_batch: int) -> jax.Array:
  """Returns rows of mini-batch n of ref [T, ...], zeros after its end."""
  rows, mask = _rows(ref, n, mini_batch)
  return triton.load(ref.at[rows], mask=mask, other=0)


def store_rows(
  ref: jax.Ref, n: jax.Array, mini_batch: int, values: jax.Array
) -> None:
  """Writes the rows of mini-batch n to ref [T, ...], none after its end."""
  rows, mask = _rows(ref, n, mini_batch)
  triton.store(ref.at[rows], values.astype(ref.dtype), mask=mask)


def _rows(ref, n, mini_batch):
  """Returns the index of mini-batch n in ref and the mask of existing rows."""
  start = n * mini_batch
  mask = start + jnp.arange(mini_batch) < ref.shape[0]
  rows = pl.ds(start, mini_batch)
  if len(ref.shape) == 1:
    return rows, mask
  return (rows, slice(None)), mask[:, None]
