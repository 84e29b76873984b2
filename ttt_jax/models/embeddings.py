"""Latents, text and time to tokens, and tokens back to latents."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax import token_order


def timestep_embedding(timesteps: jax.Array, dim: int) -> jax.Array:
  """Sinusoid of the timestep, cosines first: [B] -> [B, dim].

  At least float32 whatever the compute type: in bfloat16 timestep 999 would
  become 1000.
  """
  dtype = jnp.promote_types(timesteps.dtype, jnp.float32)
  half = dim // 2
  frequencies = np.exp(-math.log(10_000) * np.arange(half) / half)
  angles = timesteps.astype(dtype)[:, None] * jnp.asarray(frequencies, dtype)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def patchify(latents: jax.Array, patch_size: int) -> jax.Array:
  """[B, F, h, w, c] -> [B, F, rows * columns, patch * patch * c]."""
  b, f, h, w, c = latents.shape
  p = patch_size
  x = latents.reshape(b, f, h // p, p, w // p, p, c)
  x = x.transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, f, (h // p) * (w // p), p * p * c)


def unpatchify(
  tokens: jax.Array, rows: int, columns: int, patch_size: int
) -> jax.Array:
  """[B, F, rows * columns, patch * patch * c] -> [B, F, h, w, c]."""
  b, f, _, features = tokens.shape
  p = patch_size
  x = tokens.reshape(b, f, rows, columns, p, p, features // p**2)
  x = x.transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, f, rows * p, columns * p, features // p**2)


def store_video(
  video: jax.Array, order: token_order.TokenOrder, length: int
) -> jax.Array:
  """[B, F, P, X] -> [B, length, X] in storage order, zeros elsewhere."""
  b, _, p, x = video.shape
  rest = video[:, 1:].reshape(b, order.segments, -1, x)
  body = jnp.pad(rest, ((0, 0), (0, 0), (order.text_length, 0), (0, 0)))
  whole = jnp.concatenate([video[:, 0], body.reshape(b, -1, x)], axis=1)
  return jnp.pad(whole, ((0, 0), (0, length - order.length), (0, 0)))


def store_text(
  text: jax.Array, order: token_order.TokenOrder, length: int
) -> jax.Array:
  """[B, S, L, M] -> [B, length, M] in storage order, text anywhere else.

  A gather: every device takes the tokens that it will hold.
  """
  index = np.zeros(length, np.int32)
  index[order.text_index.ravel()] = np.arange(order.text_index.size)
  text = text.reshape(text.shape[0], -1, text.shape[-1])
  return jnp.take(text, index, axis=1)


def video_tokens(x: jax.Array, order: token_order.TokenOrder) -> jax.Array:
  """[B, T', M] in storage order -> the video alone, [B, F, P, M]."""
  b, _, m = x.shape
  p = order.tokens_per_frame
  body = x[:, p : order.length].reshape(b, order.segments, order.stride, m)
  rest = body[:, :, order.text_length :].reshape(b, -1, p, m)
  return jnp.concatenate([x[:, None, :p], rest], axis=1)
