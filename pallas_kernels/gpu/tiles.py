"""Tiles of one program: loads, stores and matrix products.

A product takes bfloat16 operands and adds up in float32 when the tokens are
bfloat16. When they are float32 it is a sum of six bfloat16 products (each
operand split into three parts), which is as exact as a float32 product and
still runs on the tensor cores.
"""

from __future__ import annotations

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

_FLOAT32_PRODUCT = jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6


def times(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns a b in float32; the operands have b's dtype."""
  return _product(a, b, 1, 0)


def times_transposed(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns a b^T in float32; the operands have b's dtype."""
  return _product(a, b, 1, 1)


def transposed_times(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns a^T b in float32; the operands have a's dtype."""
  return _product(a, b.astype(a.dtype), 0, 0)


def _product(a, b, axis_a, axis_b):
  """Contracts axis_a of a, cast to b's dtype, with axis_b of b."""
  return jax.lax.dot_general(
      a.astype(b.dtype),
      b,
      (((axis_a,), (axis_b,)), ((), ())),
      precision=_FLOAT32_PRODUCT if b.dtype == jnp.float32 else None,
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
  """Returns the index of mini-batch n in ref and the mask of what is there."""
  start = n * mini_batch
  mask = start + jnp.arange(mini_batch) < ref.shape[0]
  rows = pl.ds(start, mini_batch)
  if len(ref.shape) == 1:
    return rows, mask
  return (rows, slice(None)), mask[:, None]
