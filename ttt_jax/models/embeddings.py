"""Conversions of latents, text and timesteps to tokens, and back to latents."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax import token_order
from ttt_jax.models import layers


def timestep_embedding(timesteps: jax.Array, dim: int) -> jax.Array:
  """Returns sinusoids of timesteps [B], cosines first: [B, dim].

  The result is at least float32 for any compute type: bfloat16 would round
  timestep 999 to 1000.
  """
  dtype = jnp.promote_types(timesteps.dtype, jnp.float32)
  half = dim // 2
  frequencies = np.exp(-math.log(10_000) * np.arange(half) / half)
  angles = timesteps.astype(dtype)[:, None] * jnp.asarray(frequencies, dtype)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def patchify(latents: jax.Array, patch_size: int) -> jax.Array:
  """Cuts [B, F, h, w, c] into patches [B, F, P, patch_size^2 * c]."""
  x = layers.space_to_depth(latents, patch_size)
  return x.reshape(*x.shape[:2], -1, x.shape[-1])


def unpatchify(
  tokens: jax.Array, rows: int, columns: int, patch_size: int
) -> jax.Array:
  """Inverts `patchify`."""
  b, f, _, features = tokens.shape
  x = tokens.reshape(b, f, rows, columns, features)
  return layers.depth_to_space(x, patch_size)


def store_video(
  video: jax.Array, order: token_order.TokenOrder, length: int
) -> jax.Array:
  """Puts [B, F, P, X] in storage order, [B, length, X]; zeros elsewhere."""
  b, _, p, x = video.shape
  rest = video[:, 1:].reshape(b, order.segments, -1, x)
  body = jnp.pad(rest, ((0, 0), (0, 0), (order.text_length, 0), (0, 0)))
  sequence = jnp.concatenate([video[:, 0], body.reshape(b, -1, x)], axis=1)
  return jnp.pad(sequence, ((0, 0), (0, length - order.length), (0, 0)))


def store_text(
  text: jax.Array, order: token_order.TokenOrder, length: int
) -> jax.Array:
  """Puts [B, S, L, M] in storage order, [B, length, M].

  Positions of video hold arbitrary text. The gather lets every device read only
  the tokens that it will hold.
  """
  index = np.zeros(length, np.int32)
  index[order.text_index.ravel()] = np.arange(order.text_index.size)
  text = text.reshape(text.shape[0], -1, text.shape[-1])
  return jnp.take(text, index, axis=1)


def video_tokens(x: jax.Array, order: token_order.TokenOrder) -> jax.Array:
  """Returns the video [B, F, P, M] of tokens [B, T', M] in storage order."""
  b, _, m = x.shape
  p = order.tokens_per_frame
  body = x[:, p : order.length].reshape(b, order.segments, order.stride, m)
  rest = body[:, :, order.text_length :].reshape(b, -1, p, m)
  return jnp.concatenate([x[:, None, :p], rest], axis=1)
