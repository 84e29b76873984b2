"""3-D rotary position embedding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def rotary_cos_sin(
  positions: np.ndarray,
  head_dim: int,
  theta: float = 10_000.0,
  dtype: jnp.dtype = jnp.float32,
) -> tuple[jax.Array, jax.Array]:
  """Returns the rotary table for `HeadPacking.rotate`.

  Time rotates a quarter of a head's features, row and column three eighths each
  (CogVideoX). Text, at position -1, is not rotated.

  Args:
    positions: Numbers (time, row, column), [T, 3]; -1 for text.
    head_dim: Features per head, D, a multiple of 16.
    theta: Base of the frequencies.
    dtype: Dtype of the result, raised to at least float32.

  Returns:
    cos and sin, each [T, D]; the features 2i and 2i + 1 are rotated together.

  Raises:
    ValueError: 16 does not divide the head dim.
  """
  if head_dim % 16:
    raise ValueError(
      f'head_dim is {head_dim}; 3-D rotary positions need a multiple of 16,'
      ' for example 64'
    )
  # Computed on the device: as constants the angles would be most of the program
  # (90 MB for 63 seconds).
  dtype = jnp.promote_types(dtype, jnp.float32)
  counts = jnp.asarray(np.maximum(positions, 0), dtype)
  angles = []
  for axis, width in enumerate(
    (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
  ):
    frequencies = theta ** (-(np.arange(width) // 2 * 2) / width)
    angles.append(counts[:, axis, None] * jnp.asarray(frequencies, dtype))
  angles = jnp.concatenate(angles, axis=-1)
  return jnp.cos(angles), jnp.sin(angles)
