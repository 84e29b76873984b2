"""3-D rotary positions: tables on the host, one rotation on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def rotary_angles(
    positions: np.ndarray, head_dim: int, theta: float = 10_000.0
) -> np.ndarray:
  """Angles of rotary position embedding over time, rows and columns.

  A quarter of the head is turned by time and three eighths each by row and
  column (CogVideoX). Text (position -1) is not turned.

  Args:
    positions: [T, 3] whole numbers (time, row, column), -1 for text.
    head_dim: D, a multiple of 16.
    theta: base of the frequencies.

  Returns:
    float32 [T, D / 2], one angle for each pair of features (2i, 2i + 1).

  Raises:
    ValueError: a head size that does not split.
  """
  if head_dim % 16:
    raise ValueError(
        f'head size is {head_dim}; 3-D rotary positions need a multiple of'
        ' 16, for example 64'
    )
  angles = []
  for axis, width in enumerate(
      (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
  ):
    frequencies = theta ** (-np.arange(0, width, 2) / width)
    angles.append(positions[:, axis, None] * frequencies)
  angles = np.concatenate(angles, axis=-1)
  return np.where(positions[:, :1] < 0, 0.0, angles).astype(np.float32)


def rotate(x: jax.Array, angles: np.ndarray | jax.Array) -> jax.Array:
  """Turns the feature pairs (2i, 2i + 1) of x [B, T, H, D] by [T, D / 2]."""
  pairs = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  pairs = pairs.reshape(*x.shape[:-1], -1, 2)
  angles = jnp.asarray(angles, pairs.dtype)
  cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
  even, odd = pairs[..., 0], pairs[..., 1]
  out = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
  return out.reshape(x.shape).astype(x.dtype)
