"""Cuts a sequence into mini-batches of equal size, and joins them again."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp

# Longer sequences (in mini-batches) keep only some of the states for the
# backward pass and recompute the others: see `scan_groups`.
_STATES_KEPT = 128


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


def scan_groups(
    loop: Callable[[Any, tuple[jax.Array, ...]], tuple[Any, jax.Array]],
    state: Any,
    tokens: tuple[jax.Array, ...],
) -> tuple[Any, jax.Array]:
  """Runs `loop` over all mini-batches, in groups when there are many.

  A state is larger than the tokens that it meets (at C = 64, K = 256 eight
  times q), so a backward pass that keeps N of them would set the peak memory.
  In groups of about sqrt(N), it keeps about 2 sqrt(N) states and pays one
  more forward pass.

  Args:
    loop: (state, tokens [n, ...]) -> (state, out [n, ...]); it keeps one
      state per mini-batch for its backward pass. Zero tokens, appended to
      fill the last group, must leave the state as it is.
    state: pytree, the first state.
    tokens: arrays [N, ...].

  Returns:
    (last state, out [N, ...]).
  """
  n = tokens[0].shape[0]
  if n <= _STATES_KEPT:
    return loop(state, tokens)
  size = group_size(n)

  def grouped(array):
    padding = [(0, -n % size)] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, padding).reshape(-1, size, *array.shape[1:])

  state, out = jax.lax.scan(
      lambda state, tokens: jax.checkpoint(loop)(state, tokens),
      state,
      tuple(grouped(array) for array in tokens),
  )
  return state, out.reshape(-1, *out.shape[2:])[:n]


def group_size(n: int) -> int:
  """Returns a group size near sqrt(n) that leaves the fewest empty places."""
  root = math.isqrt(n)
  return min(range(root, 2 * root + 1), key=lambda size: (-n % size, size))
