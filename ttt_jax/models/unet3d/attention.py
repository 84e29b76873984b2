"""The transformer of the inflated U-Net (Wu et al. 2023, arXiv:2212.11565).

A block reads, one after the other: the pixels of the first and the previous
frame (sparse-causal attention), the text, a gated MLP, and the same pixel in
all frames (temporal attention).
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.models import frames as frames_lib
from ttt_jax.models import layers
from ttt_jax.models import resnet
from ttt_jax.models import softmax
from ttt_jax.models.unet3d.config import UNet3DConfig

Initializer = nn.initializers.Initializer

# Fewer keys, and their scores are small: XLA's attention does.
_SPLASH_KEYS = 1024
# U(-1 / sqrt(I), 1 / sqrt(I)) for I inputs, as the reference draws.
_fan_in = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  at_once: int | None = None,
  implementation: str = 'xla',
) -> jax.Array:
  """Softmax attention.

  Args:
    q: [N, T, H, D].
    k: [N, S, H, D].
    v: [N, S, H, D].
    at_once: of N whose scores are in memory together; None is all.
    implementation: of `softmax.IMPLEMENTATIONS`; 'splash' is for many keys
      and has no scores in memory.

  Returns:
    [N, T, H, D]; logits and softmax in float32.
  """
  if implementation == 'splash' and k.shape[1] >= _SPLASH_KEYS:

    def filled(x):
      rows = softmax.padded(x.shape[1], 'splash') - x.shape[1]
      return jnp.pad(x.reshape(*x.shape[:2], -1), ((0, 0), (0, rows), (0, 0)))

    out = softmax.splash(
      filled(q), filled(k), filled(v), q.shape[-1], k.shape[1]
    )
    return out[:, : q.shape[1]].reshape(q.shape)
  if at_once is None or at_once >= len(q):
    return jax.nn.dot_product_attention(q, k, v)
  # The backward pass computes the scores again: else it would keep them all.
  one = jax.checkpoint(lambda qkv: jax.nn.dot_product_attention(*qkv))
  return jax.lax.map(one, (q, k, v), batch_size=at_once)


class Attention(nn.Module):
  """Multi-head attention; queries, keys and values have no bias.

  Attributes:
    heads: H.
    dtype: compute type.
    at_once: of `attend`.
    implementation: of `attend`.
    out_init: initializer of the output's kernel.
    out_bias_init: of its bias.
  """

  heads: int
  dtype: Any
  at_once: int | None = None
  implementation: str = 'xla'
  out_init: Initializer = _fan_in
  out_bias_init: Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    context: jax.Array | None = None,
    gather: Callable[[jax.Array], jax.Array] = lambda keys: keys,
  ) -> jax.Array:
    """Attends.

    Args:
      x: queries, [N, T, M].
      context: [N, S, X]; None is x.
      gather: which keys and values the queries meet, [N, S, M] -> [N, S', M].

    Returns:
      [N, T, M].
    """
    context = x if context is None else context
    width = x.shape[-1]
    dense = functools.partial(
      nn.Dense, width, use_bias=False, dtype=self.dtype, kernel_init=_fan_in
    )
    split = lambda y: y.reshape(*y.shape[:-1], self.heads, width // self.heads)
    q = split(dense(name='to_q')(x))
    k = split(gather(dense(name='to_k')(context)))
    v = split(gather(dense(name='to_v')(context)))
    y = attend(q, k, v, self.at_once, self.implementation).reshape(x.shape)
    return nn.Dense(
      width,
      dtype=self.dtype,
      kernel_init=self.out_init,
      bias_init=self.out_bias_init,
      name='to_out',
    )(y)


class SparseCausalAttention(Attention):
  """Each frame attends to the first and the previous frame."""

  @nn.compact
  def __call__(self, x: jax.Array, frames: frames_lib.Frames) -> jax.Array:
    """[B f, P, M] -> [B f, P, M]."""
    return super().__call__(x, gather=frames.first_and_previous)


def _reference_bias(key, shape, dtype=jnp.float32):
  """The bias that PyTorch gives a new square layer."""
  bound = 1 / np.sqrt(shape[-1])
  return jax.random.uniform(key, shape, dtype, -bound, bound)


class FeedForward(nn.Module):
  """An MLP whose GELU gates its other half (GEGLU), [..., M] -> [..., M]."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    y = layers.Dense(8 * width, dtype=self.dtype, name='up')(x)
    y, gate = jnp.split(y, 2, axis=-1)
    y = y * nn.gelu(gate, approximate=False)
    return layers.Dense(width, dtype=self.dtype, name='down')(y)


class TransformerBlock(nn.Module):
  """Four parts, each added to what it reads."""

  config: UNet3DConfig
  heads: int
  frames: frames_lib.Frames

  @nn.compact
  def __call__(self, x: jax.Array, text: jax.Array) -> jax.Array:
    """x [B f, P, M], text [B, L, Dt] -> x."""
    c = self.config
    n, p, m = x.shape
    dtype = jnp.dtype(c.dtype)
    norm = lambda name: layers.LayerNorm(epsilon=1e-5, name=name)
    attention = functools.partial(Attention, self.heads, dtype)

    x = x + SparseCausalAttention(
      self.heads, dtype, c.attention_frames, c.attention, name='attn1'
    )(norm('norm1')(x), self.frames)
    # All frames of a clip read the same text: one long row of queries.
    y = norm('norm2')(x).reshape(-1, self.frames.local * p, m)
    x = x + attention(name='attn2')(y, text).reshape(n, p, m)
    x = x + FeedForward(dtype, name='ff')(norm('norm3')(x))
    if not c.temporal:
      return x
    temporal = attention(
      out_init=nn.initializers.zeros,
      out_bias_init=(
        _reference_bias if c.reference_bias else nn.initializers.zeros
      ),
      name='attn_temp',
    )
    y = norm('norm_temp')(x).astype(dtype)
    return x + self.frames.by_pixels(temporal, y)


class Transformer(nn.Module):
  """Pixels to tokens, a block, and back, added to the pixels."""

  config: UNet3DConfig
  heads: int
  frames: frames_lib.Frames

  @nn.compact
  def __call__(self, x: jax.Array, text: jax.Array) -> jax.Array:
    """x [B, f, h, w, M], text [B, L, Dt] -> x."""
    c = self.config
    b, f, h, w, m = x.shape
    dtype = jnp.dtype(c.dtype)

    def project(y, name):
      if c.use_linear_projection:
        return layers.Dense(m, dtype=dtype, name=name)(y)
      return resnet.conv(m, 1, dtype, name)(y)

    # One frame at a time, other than the norms of the residual blocks.
    y = x.reshape(b * f, h, w, m)
    y = resnet.GroupNorm(c.norm_num_groups, 1e-6, name='norm')(y)
    y = project(y, 'proj_in').reshape(b * f, h * w, m)
    y = TransformerBlock(c, self.heads, self.frames, name='block')(y, text)
    y = project(y.reshape(b * f, h, w, m), 'proj_out')
    return x + y.reshape(x.shape)
