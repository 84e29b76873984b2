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

from ttt_jax.models import layers
from ttt_jax.models.unet3d import resnet
from ttt_jax.models.unet3d.config import UNet3DConfig

Initializer = nn.initializers.Initializer

# U(-1 / sqrt(I), 1 / sqrt(I)) for I inputs, as the reference draws.
_fan_in = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, at_once: int | None = None
) -> jax.Array:
  """Softmax attention, at most `at_once` items of N at a time.

  Args:
    q: [N, T, H, D].
    k: [N, S, H, D].
    v: [N, S, H, D].
    at_once: whose scores are in memory together; None is all.

  Returns:
    [N, T, H, D]; logits and softmax in float32.
  """
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
    out_init: initializer of the output's kernel.
    out_bias_init: of its bias.
  """

  heads: int
  dtype: Any
  at_once: int | None = None
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
    split = lambda y: y.reshape(
        *y.shape[:-1], self.heads, width // self.heads
    )
    q = split(dense(name='to_q')(x))
    k = split(gather(dense(name='to_k')(context)))
    v = split(gather(dense(name='to_v')(context)))
    y = attend(q, k, v, self.at_once).reshape(x.shape)
    return nn.Dense(
        width, dtype=self.dtype, kernel_init=self.out_init,
        bias_init=self.out_bias_init, name='to_out',
    )(y)  # pyformat: disable


def first_and_previous(x: jax.Array, frames: int) -> jax.Array:
  """Tokens of the first and the previous frame, for each frame.

  The first frame has itself twice, the second the first one twice: where a
  token is there twice, softmax gives what it gives to one.

  Args:
    x: [B F, P, M].
    frames: F.

  Returns:
    [B F, 2 P, M]; with one frame, x.
  """
  if frames == 1:
    return x
  n, p, m = x.shape
  x = x.reshape(-1, frames, p, m)
  first = jnp.broadcast_to(x[:, :1], x.shape)
  previous = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
  return jnp.concatenate([first, previous], axis=2).reshape(n, 2 * p, m)


class SparseCausalAttention(Attention):
  """Each frame attends to the first and the previous frame."""

  @nn.compact
  def __call__(self, x: jax.Array, frames: int) -> jax.Array:
    """[B F, P, M] -> [B F, P, M]."""
    return super().__call__(
        x, gather=lambda keys: first_and_previous(keys, frames)
    )


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

  @nn.compact
  def __call__(
      self, x: jax.Array, text: jax.Array, frames: int
  ) -> jax.Array:
    """x [B F, P, M], text [B, L, Dt] -> x."""
    c = self.config
    n, p, m = x.shape
    dtype = jnp.dtype(c.dtype)
    norm = lambda name: layers.LayerNorm(epsilon=1e-5, name=name)
    attention = functools.partial(Attention, self.heads, dtype)

    x = x + SparseCausalAttention(
        self.heads, dtype, c.attention_frames, name='attn1'
    )(norm('norm1')(x), frames)
    # All frames of a clip read the same text: one long row of queries.
    y = norm('norm2')(x).reshape(-1, frames * p, m)
    x = x + attention(name='attn2')(y, text).reshape(n, p, m)
    x = x + FeedForward(dtype, name='ff')(norm('norm3')(x))
    if not c.temporal:
      return x
    y = norm('norm_temp')(x).reshape(-1, frames, p, m).swapaxes(1, 2)
    y = attention(
        out_init=nn.initializers.zeros,
        out_bias_init=(
            _reference_bias if c.reference_bias else nn.initializers.zeros
        ),
        name='attn_temp',
    )(y.reshape(-1, frames, m))
    y = y.reshape(-1, p, frames, m).swapaxes(1, 2)
    return x + y.reshape(n, p, m)


class Transformer(nn.Module):
  """Pixels to tokens, a block, and back, added to the pixels."""

  config: UNet3DConfig
  heads: int

  @nn.compact
  def __call__(self, x: jax.Array, text: jax.Array) -> jax.Array:
    """x [B, F, h, w, M], text [B, L, Dt] -> x."""
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
    y = TransformerBlock(c, self.heads, name='block')(y, text, f)
    y = project(y.reshape(b * f, h, w, m), 'proj_out')
    return x + y.reshape(x.shape)
