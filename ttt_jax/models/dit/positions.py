"""Positions of tokens in time, height and width, as in the pre-trained models.

CogVideoX-5B rotates queries and keys by their positions (`rope`); CogVideoX-2B
adds a table of sines and cosines to the tokens before the first block. Both
count positions within a segment, the length that they were trained with. The
mixers have rotary positions in either model, counted over the complete video.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax import token_order

KINDS = ('rope', 'sincos')


def window_positions(
  order: token_order.TokenOrder,
  kind: str,
  base: tuple[int, int] | None = None,
) -> np.ndarray:
  """Returns rotary positions in an attention window, [window, 3].

  Tokens with position -1 are not rotated.

  Args:
    order: Order of the tokens.
    kind: One of `KINDS`; with 'sincos' no token is rotated.
    base: Rows and columns of a frame in pre-training. Frames of another size
      are fitted into it and centred, as in diffusers' pipeline. None counts
      rows and columns from 0.
  """
  positions = order.window_positions
  if kind == 'sincos':
    return np.full_like(positions, -1)
  if base is None:
    return positions
  is_text = positions < 0
  time, row, column = np.where(is_text, 0, positions).T
  (top, bottom), (left, right) = _fit(order, base)
  fitted = np.stack(
    [
      time,
      _axis(top, bottom, order.rows)[row],
      _axis(left, right, order.columns)[column],
    ],
    axis=-1,
  )
  return np.where(is_text, -1, fitted)


def _fit(order, base):
  """Returns (start, stop) of rows, then of columns, of a centred fit."""
  sizes = order.rows, order.columns
  scale = min(b / s for b, s in zip(base, sizes))
  spans = []
  for size, available in zip(sizes, base):
    fitted = round(size * scale)
    start = round((available - fitted) / 2)
    spans.append((start, start + fitted))
  return spans


def _axis(start, stop, number):
  return np.linspace(start, stop * (number - 1) / number, number)


def table(
  order: token_order.TokenOrder,
  length: int,
  dim: int,
  spatial_scale: float,
  temporal_scale: float,
  dtype: jnp.dtype,
) -> jax.Array:
  """Returns sines and cosines to add to tokens, [length, dim]; zeros for text.

  A quarter of the features encodes time, three eighths each encode column and
  row; the sines of each come first. Every segment counts its own frames from 1;
  the first frame of the video is 0. With one segment, these are the positions
  of diffusers.

  Args:
    order: Order of the tokens.
    length: Tokens with padding, at least `order.length`.
    dim: Model dim, M, a multiple of 16.
    spatial_scale: Rows and columns per unit of position.
    temporal_scale: Frames per unit of position.
    dtype: Dtype of the result.
  """
  p = order.tokens_per_frame
  window = order.window_positions
  positions = np.full((length, 3), -1, np.int32)
  positions[:p] = window[:p]
  positions[p : order.length] = np.tile(window[p:], (order.segments, 1))
  # Computed on the device: as constants they would be most of the program.
  wide = jnp.promote_types(dtype, jnp.float32)
  counts = jnp.asarray(np.maximum(positions, 0), wide)
  parts = []
  for axis, width, scale in (
    (0, dim // 4, temporal_scale),
    (2, dim // 8 * 3, spatial_scale),
    (1, dim // 8 * 3, spatial_scale),
  ):
    half = width // 2
    frequencies = 10_000.0 ** (-np.arange(half) / half) / scale
    angles = counts[:, axis, None] * jnp.asarray(frequencies, wide)
    parts += [jnp.sin(angles), jnp.cos(angles)]
  is_text = jnp.asarray(positions[:, :1] < 0)
  return jnp.where(is_text, 0, jnp.concatenate(parts, axis=-1)).astype(dtype)
