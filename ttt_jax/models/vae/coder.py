"""Encoder and decoder of one window of frames.

Both take and return a cache: a dict of the last input frames of every causal
convolution, None at the start of a video. Structure as in CogVideoX
(arXiv 2408.06072) with diffusers' names, plus two options of ours for small
models: patches of pixels as channels, and a linear shortcut past the network.
"""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax.models.vae.causal_conv import CausalConv3d
from ttt_jax.models.vae.causal_conv import Downsample
from ttt_jax.models.vae.causal_conv import Upsample
from ttt_jax.models.vae.norms import activation
from ttt_jax.models.vae.norms import GroupNorm
from ttt_jax.models.vae.norms import ResnetBlock
from ttt_jax.models.vae.norms import SpatialNorm


def pixels_to_channels(frames: jax.Array, size: int) -> jax.Array:
  """[B,F,H,W,c] -> [B,F,H/size,W/size,size*size*c]."""
  b, f, h, w, c = frames.shape
  x = frames.reshape(b, f, h // size, size, w // size, size, c)
  x = x.transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, f, h // size, w // size, size * size * c)


def channels_to_pixels(x: jax.Array, size: int) -> jax.Array:
  """The inverse of `pixels_to_channels`."""
  b, f, h, w, c = x.shape
  x = x.reshape(b, f, h, w, size, size, c // size**2)
  x = x.transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, f, h * size, w * size, c // size**2)


def blocks_of_pixels(frames: jax.Array, time: int, space: int) -> jax.Array:
  """Causal blocks of pixels, one a latent position.

  Args:
    frames: [B, F', H, W, c]; F' a multiple of `time`, or one more: then the
      first frame fills a block by itself, repeated.

  Returns:
    [B, F, H/space, W/space, time*space*space*c].
  """
  if frames.shape[1] % time:
    first = jnp.repeat(frames[:, :1], time - 1, axis=1)
    frames = jnp.concatenate([first, frames], axis=1)
  x = pixels_to_channels(frames, space)
  b, f, h, w, c = x.shape
  x = x.reshape(b, f // time, time, h, w, c).transpose(0, 1, 3, 4, 2, 5)
  return x.reshape(b, f // time, h, w, time * c)


def pixels_of_blocks(
  x: jax.Array, time: int, space: int, lone_first: bool
) -> jax.Array:
  """The inverse; a lone first block becomes the mean of its frames."""
  b, f, h, w, c = x.shape
  x = x.reshape(b, f, h, w, time, c // time).transpose(0, 1, 4, 2, 3, 5)
  x = channels_to_pixels(x.reshape(b, f * time, h, w, c // time), space)
  if not lone_first:
    return x
  first = x[:, :time].mean(axis=1, keepdims=True)
  return jnp.concatenate([first, x[:, time:]], axis=1)


class Stage(nn.Module):
  """Residual blocks at one resolution, then a change of resolution.

  Attributes:
    features: channels.
    layers: number of residual blocks.
    resize: 'down', 'up' or None.
    time: whether the change of resolution halves or doubles time too.
    loop: of `CausalConv3d`.
  """

  features: int
  layers: int
  groups: int
  eps: float
  resize: str | None = None
  time: bool = False
  loop: bool = False

  @nn.compact
  def __call__(self, x, cache=None, latents=None):
    cache = cache or {}
    after = {}
    for i in range(self.layers):
      name = f'resnets_{i}'
      block = ResnetBlock(
        self.features, self.groups, self.eps, self.loop, name=name
      )
      x, after[name] = block(x, cache.get(name), latents)
    if self.resize == 'down':
      x = Downsample(self.time, name='downsamplers_0')(x)
    elif self.resize == 'up':
      x = Upsample(self.time, self.loop, name='upsamplers_0')(x)
    return x, after


class Encoder(nn.Module):
  """A window of frames -> unscaled (mean | log-variance) and caches."""

  config: object
  loop: bool = False

  @nn.compact
  def __call__(self, frames, cache=None):
    c = self.config
    cache = cache or {}
    after = {}
    last = len(c.block_out_channels) - 1
    x = pixels_to_channels(frames, c.patch_size)
    conv_in = CausalConv3d(
      c.block_out_channels[0], loop=self.loop, name='conv_in'
    )
    x, after['conv_in'] = conv_in(x, cache.get('conv_in'))
    for i, features in enumerate(c.block_out_channels):
      name = f'down_blocks_{i}'
      stage = Stage(
        features,
        c.layers_per_block,
        c.norm_num_groups,
        c.norm_eps,
        resize='down' if i < last else None,
        time=i < c.time_levels,
        loop=self.loop,
        name=name,
      )
      x, after[name] = stage(x, cache.get(name))
    mid = Stage(
      c.block_out_channels[-1],
      2,
      c.norm_num_groups,
      c.norm_eps,
      loop=self.loop,
      name='mid_block',
    )
    x, after['mid_block'] = mid(x, cache.get('mid_block'))
    norm = GroupNorm(c.norm_num_groups, c.norm_eps, name='norm_out')
    conv_out = CausalConv3d(
      2 * c.latent_channels, loop=self.loop, name='conv_out'
    )
    x, after['conv_out'] = conv_out(
      x, cache.get('conv_out'), *activation(norm, x, None)
    )
    if c.linear_shortcut:
      blocks = blocks_of_pixels(
        frames, c.temporal_compression_ratio, c.spatial_compression
      )
      linear = nn.Dense(c.latent_channels, name='linear_shortcut')(blocks)
      x = jnp.concatenate([linear, jnp.zeros_like(linear)], axis=-1) + x
    return x, after


class Decoder(nn.Module):
  """A window of unscaled latents -> frames and caches."""

  config: object
  loop: bool = False

  @nn.compact
  def __call__(self, latents, cache=None):
    c = self.config
    cache = cache or {}
    after = {}
    widths = c.block_out_channels[::-1]
    last = len(widths) - 1
    conv_in = CausalConv3d(widths[0], loop=self.loop, name='conv_in')
    x, after['conv_in'] = conv_in(latents, cache.get('conv_in'))
    mid = Stage(
      widths[0],
      2,
      c.norm_num_groups,
      c.norm_eps,
      loop=self.loop,
      name='mid_block',
    )
    x, after['mid_block'] = mid(x, cache.get('mid_block'), latents)
    for i, features in enumerate(widths):
      name = f'up_blocks_{i}'
      stage = Stage(
        features,
        c.layers_per_block + 1,
        c.norm_num_groups,
        c.norm_eps,
        resize='up' if i < last else None,
        time=i < c.time_levels,
        loop=self.loop,
        name=name,
      )
      x, after[name] = stage(x, cache.get(name), latents)
    norm = SpatialNorm(c.norm_num_groups, c.norm_eps, name='norm_out')
    conv_out = CausalConv3d(
      c.out_channels * c.patch_size**2, loop=self.loop, name='conv_out'
    )
    x, after['conv_out'] = conv_out(
      x, cache.get('conv_out'), *activation(norm, x, latents)
    )
    frames = channels_to_pixels(x, c.patch_size)
    if c.linear_shortcut:
      time, space = c.temporal_compression_ratio, c.spatial_compression
      linear = nn.Dense(
        time * space**2 * c.out_channels, name='linear_shortcut'
      )(latents)
      frames = frames + pixels_of_blocks(
        linear, time, space, lone_first=latents.shape[1] % 2 == 1
      )
    return frames, after
