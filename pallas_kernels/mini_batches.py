"""Cuts a sequence into mini-batches of equal size, and joins them again."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def split(array: jax.Array, mini_batch: int) -> jax.Array:
  """Returns [B, H, T, ...] as [N, B, H, C, ...], zeros after the end.

  Zeros in eta keep the padded tokens from moving the state.

  Args:
    array: [B, H, T, ...].
    mini_batch: C.
  """
  b, h, t, *rest = array.shape
  n = -(-t // mini_batch)
  padding = [(0, 0)] * array.ndim
  padding[2] = (0, n * mini_batch - t)
  array = jnp.pad(array, padding).reshape(b, h, n, mini_batch, *rest)
  return jnp.moveaxis(array, 2, 0)


def join(array: jax.Array, length: int) -> jax.Array:
  """Returns [N, B, H, C, D] as [B, H, T, D], the first T = `length` tokens."""
  n, b, h, c, d = array.shape
  return jnp.moveaxis(array, 0, 2).reshape(b, h, n * c, d)[:, :, :length]
