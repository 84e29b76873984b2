"""3-D rotary positions: how far each feature of each token is turned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def turns(
  positions: np.ndarray,
  head_dim: int,
  theta: float = 10_000.0,
  dtype: jnp.dtype = jnp.float32,
) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines of rotary position embedding, for `Heads.rotate`.

  A quarter of the head is turned by time and three eighths each by row and
  column (CogVideoX). Text (position -1) is not turned.

  Args:
    positions: [T, 3] numbers (time, row, column), -1 for text.
    head_dim: D, a multiple of 16.
    theta: base of the frequencies.
    dtype: of the result, at least float32.

  Returns:
    cos and sin, each [T, D]; the features 2i and 2i + 1 are turned together.

  Raises:
    ValueError: a head size that does not split.
  """
  if head_dim % 16:
    raise ValueError(
      f'head size is {head_dim}; 3-D rotary positions need a multiple of'
      ' 16, for example 64'
    )
  # Angles are made on the device: as constants they would be most of the
  # program (90 MB for 63 seconds).
  dtype = jnp.promote_types(dtype, jnp.float32)
  positions = jnp.asarray(np.maximum(positions, 0), dtype)
  angles = []
  for axis, width in enumerate(
    (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
  ):
    frequencies = theta ** (-(np.arange(width) // 2 * 2) / width)
    angles.append(positions[:, axis, None] * jnp.asarray(frequencies, dtype))
  angles = jnp.concatenate(angles, axis=-1)
  return jnp.cos(angles), jnp.sin(angles)
