"""The transformer of the inflated U-Net (Wu et al. 2023, arXiv:2212.11565).

A block consists of attention to the pixels of the first and the previous frame
(sparse-causal attention), attention to the text, a gated MLP, and attention to
the same pixel in all frames (temporal attention).
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

# With fewer keys the scores are small and XLA's attention is used.
_SPLASH_KEYS = 1024
# U(-1 / sqrt(I), 1 / sqrt(I)) for I inputs, as in the reference.
_fan_in = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  batch_size: int | None = None,
  implementation: str | None = 'xla',
) -> jax.Array:
  """Computes softmax attention.

  Args:
    q: Queries [N, T, H, D].
    k: Keys [N, S, H, D].
    v: Values [N, S, H, D].
    batch_size: Number of the N batch entries whose scores are in memory at
      once; None is all of them.
    implementation: One of `softmax.IMPLEMENTATIONS`; 'splash' is for many keys
      and keeps no scores in memory.

  Returns:
    [N, T, H, D]; logits and softmax in float32.
  """
  if implementation == 'splash' and k.shape[1] >= _SPLASH_KEYS:

    def pad(x):
      rows = softmax.padded(x.shape[1], 'splash') - x.shape[1]
      return jnp.pad(x.reshape(*x.shape[:2], -1), ((0, 0), (0, rows), (0, 0)))

    out = softmax.splash(pad(q), pad(k), pad(v), q.shape[-1], k.shape[1])
    return out[:, : q.shape[1]].reshape(q.shape)
  if batch_size is None or batch_size >= len(q):
    return softmax.products(q, k, v)

  # The backward pass recomputes the scores instead of keeping all of them.
  @jax.checkpoint
  def attend_entry(qkv):
    return softmax.products(*(x[None] for x in qkv))[0]

  return jax.lax.map(attend_entry, (q, k, v), batch_size=batch_size)


class Attention(nn.Module):
  """Multi-head attention; queries, keys and values have no bias.

  Attributes:
    heads: Number of heads, H.
    dtype: Compute type.
    batch_size: Batch entries whose scores are in memory at once, see `attend`.
    implementation: Implementation of attention, see `attend`.
    out_init: Initializer of the output projection's kernel.
    out_bias_init: Initializer of the output projection's bias.
  """

  heads: int
  dtype: Any
  batch_size: int | None = None
  implementation: str | None = 'xla'
  out_init: Initializer = _fan_in
  out_bias_init: Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    context: jax.Array | None = None,
    gather: Callable[[jax.Array], jax.Array] = lambda keys: keys,
  ) -> jax.Array:
    """Attends from x to the context.

    Args:
      x: Inputs of the queries, [N, T, M].
      context: Inputs of keys and values, [N, S, X]; None is x.
      gather: Function that selects keys and values, [N, S, M] -> [N, S', M].

    Returns:
      [N, T, M].
    """
    context = x if context is None else context
    width = x.shape[-1]
    dense = functools.partial(
      nn.Dense, width, use_bias=False, dtype=self.dtype, kernel_init=_fan_in
    )
    split_heads = lambda y: y.reshape(
      *y.shape[:-1], self.heads, width // self.heads
    )
    q = split_heads(dense(name='to_q')(x))
    k = split_heads(gather(dense(name='to_k')(context)))
    v = split_heads(gather(dense(name='to_v')(context)))
    y = attend(q, k, v, self.batch_size, self.implementation).reshape(x.shape)
    return nn.Dense(
      width,
      dtype=self.dtype,
      kernel_init=self.out_init,
      bias_init=self.out_bias_init,
      name='to_out',
    )(y)


class SparseCausalAttention(Attention):
  """Attention of each frame to the first and the previous frame."""

  @nn.compact
  def __call__(self, x: jax.Array, frames: frames_lib.Frames) -> jax.Array:
    """Maps [B f, P, M] to [B f, P, M]."""
    return super().__call__(x, gather=frames.first_and_previous)


def _reference_bias(key, shape, dtype=jnp.float32):
  """Draws PyTorch's initial bias of a square layer."""
  bound = 1 / np.sqrt(shape[-1])
  return jax.random.uniform(key, shape, dtype, -bound, bound)


class FeedForward(nn.Module):
  """MLP whose GELU gates its other half (GEGLU), [..., M] -> [..., M]."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    y = layers.Dense(8 * width, dtype=self.dtype, name='up')(x)
    y, gate = jnp.split(y, 2, axis=-1)
    y = y * nn.gelu(gate, approximate=False)
    return layers.Dense(width, dtype=self.dtype, name='down')(y)


class TransformerBlock(nn.Module):
  """Spatial, text and temporal attention and an MLP, each with a residual."""

  config: UNet3DConfig
  heads: int
  frames: frames_lib.Frames

  @nn.compact
  def __call__(self, x: jax.Array, text: jax.Array) -> jax.Array:
    """Maps x [B f, P, M], with text [B, L, Dt], to [B f, P, M]."""
    c = self.config
    n, p, m = x.shape
    dtype = jnp.dtype(c.dtype)
    norm = lambda name: layers.LayerNorm(epsilon=1e-5, name=name)
    attention = functools.partial(Attention, heads=self.heads, dtype=dtype)

    x = x + SparseCausalAttention(
      heads=self.heads,
      dtype=dtype,
      batch_size=c.attention_frames,
      implementation=c.attention,
      name='attn1',
    )(norm('norm1')(x), self.frames)
    # All frames of a clip attend to the same text, as one sequence of queries.
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
  """A transformer block on the pixels of a level, with a residual."""

  config: UNet3DConfig
  heads: int
  frames: frames_lib.Frames

  @nn.compact
  def __call__(self, x: jax.Array, text: jax.Array) -> jax.Array:
    """Maps x [B, f, h, w, M], with text [B, L, Dt], to [B, f, h, w, M]."""
    c = self.config
    b, f, h, w, m = x.shape
    dtype = jnp.dtype(c.dtype)

    def project(y, name):
      if c.use_linear_projection:
        return layers.Dense(m, dtype=dtype, name=name)(y)
      return resnet.conv(m, 1, dtype, name)(y)

    # Statistics per frame, unlike in the residual blocks.
    y = x.reshape(b * f, h, w, m)
    y = resnet.GroupNorm(groups=c.norm_num_groups, eps=1e-6, name='norm')(y)
    y = project(y, 'proj_in').reshape(b * f, h * w, m)
    y = TransformerBlock(
      config=c, heads=self.heads, frames=self.frames, name='block'
    )(y, text)
    y = project(y.reshape(b * f, h, w, m), 'proj_out')
    return x + y.reshape(x.shape)
