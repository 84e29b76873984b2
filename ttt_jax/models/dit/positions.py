"""Where tokens are in time, height and width, as the pre-trained models count.

CogVideoX-5B turns queries and keys by their positions (`rope`), CogVideoX-2B
adds a table of sines and cosines to the tokens before the first block. Both
count within a segment: it is the length that they were trained with. The TTT
layers are ours and count through the whole video, with rotary positions in
either model.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax import token_order

KINDS = ('rope', 'sincos')


def of_windows(
  order: token_order.TokenOrder,
  kind: str,
  base: tuple[int, int] | None = None,
) -> np.ndarray:
  """[window, 3] rotary positions in a window, -1 for what is not turned.

  Args:
    order: of the tokens.
    kind: 'rope', or 'sincos': then no token is turned.
    base: (rows, columns) of a frame in pre-training. Frames of another size
      are fitted into it and centred, as diffusers' pipeline does; None counts
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
  """First row and the one behind the last, then columns, of a centred fit."""
  sizes = order.rows, order.columns
  scale = min(b / s for b, s in zip(base, sizes))
  spans = []
  for size, whole in zip(sizes, base):
    fitted = round(size * scale)
    start = round((whole - fitted) / 2)
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
  """Sines and cosines to be added to tokens, zeros for text: [length, dim].

  A quarter of the features is for time, three eighths each for column and
  row; of each, the sines come first. Every segment counts its own frames
  from 1, and the very first frame is 0: with one segment, these are the
  positions of diffusers.

  Args:
    order: of the tokens.
    length: tokens, at least those of `order`.
    dim: M, a multiple of 16.
    spatial_scale: positions count 1 / spatial_scale a row or column.
    temporal_scale: the same for a frame.
    dtype: of the result.
  """
  p = order.tokens_per_frame
  window = order.window_positions
  places = np.full((length, 3), -1, np.int32)
  places[:p] = window[:p]
  places[p : order.length] = np.tile(window[p:], (order.segments, 1))
  # Made on the device: as constants they would be most of the program.
  wide = jnp.promote_types(dtype, jnp.float32)
  found = jnp.asarray(np.maximum(places, 0), wide)
  parts = []
  for axis, width, scale in (
    (0, dim // 4, temporal_scale),
    (2, dim // 8 * 3, spatial_scale),
    (1, dim // 8 * 3, spatial_scale),
  ):
    half = width // 2
    frequencies = 10_000.0 ** (-np.arange(half) / half) / scale
    angles = found[:, axis, None] * jnp.asarray(frequencies, wide)
    parts += [jnp.sin(angles), jnp.cos(angles)]
  is_text = jnp.asarray(places[:, :1] < 0)
  return jnp.where(is_text, 0, jnp.concatenate(parts, axis=-1)).astype(dtype)
