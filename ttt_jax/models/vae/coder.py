"""Encoder and decoder of one chunk of frames.

Both take and return a cache: a dict of the last input frames of every causal
convolution, None at the start of a video. The structure is that of CogVideoX
(arXiv 2408.06072), with diffusers' names and two additional options for small
models: patches of pixels as channels, and a linear shortcut past the network.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax.models import layers
from ttt_jax.models.vae.causal_conv import CausalConv3d
from ttt_jax.models.vae.causal_conv import Downsample
from ttt_jax.models.vae.causal_conv import Upsample
from ttt_jax.models.vae.norms import activation
from ttt_jax.models.vae.norms import GroupNorm
from ttt_jax.models.vae.norms import ResnetBlock
from ttt_jax.models.vae.norms import SpatialNorm


def patchify3d(frames: jax.Array, time: int, space: int) -> jax.Array:
  """Cuts frames into causal 3-D patches, one per latent position.

  Args:
    frames: Frames [B, F', H, W, c]; F' is a multiple of `time` or one more. The
      additional first frame is repeated to fill a patch.
    time: Frames per patch.
    space: Pixel rows and columns per patch.

  Returns:
    [B, F, H / space, W / space, time * space * space * c].
  """
  if frames.shape[1] % time:
    first = jnp.repeat(frames[:, :1], time - 1, axis=1)
    frames = jnp.concatenate([first, frames], axis=1)
  x = layers.space_to_depth(frames, space)
  b, f, h, w, c = x.shape
  x = x.reshape(b, f // time, time, h, w, c).transpose(0, 1, 3, 4, 2, 5)
  return x.reshape(b, f // time, h, w, time * c)


def unpatchify3d(
  x: jax.Array, time: int, space: int, single_first: bool
) -> jax.Array:
  """Inverts `patchify3d`.

  Args:
    x: Patches [B, F, h, w, time * space * space * c].
    time: Frames per patch.
    space: Pixel rows and columns per patch.
    single_first: Reduces the first patch to the mean of its frames.
  """
  b, f, h, w, c = x.shape
  x = x.reshape(b, f, h, w, time, c // time).transpose(0, 1, 4, 2, 3, 5)
  x = layers.depth_to_space(x.reshape(b, f * time, h, w, c // time), space)
  if not single_first:
    return x
  first = x[:, :time].mean(axis=1, keepdims=True)
  return jnp.concatenate([first, x[:, time:]], axis=1)


class Level(nn.Module):
  """Residual blocks at one resolution, then a change of resolution.

  Attributes:
    features: Channels.
    blocks: Number of residual blocks.
    groups: Channel groups of the norms.
    eps: Epsilon of the norms.
    resize: 'down', 'up' or None.
    time: Whether the change of resolution also halves or doubles time.
    loop: Option of `CausalConv3d`.
  """

  features: int
  blocks: int
  groups: int
  eps: float
  resize: str | None = None
  time: bool = False
  loop: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    cache: dict[str, Any] | None = None,
    latents: jax.Array | None = None,
  ) -> tuple[jax.Array, dict[str, Any]]:
    cache = cache or {}
    new_cache: dict[str, Any] = {}
    for i in range(self.blocks):
      name = f'resnets_{i}'
      block = ResnetBlock(
        features=self.features,
        groups=self.groups,
        eps=self.eps,
        loop=self.loop,
        name=name,
      )
      x, new_cache[name] = block(x, cache.get(name), latents)
    if self.resize == 'down':
      x = Downsample(self.time, name='downsamplers_0')(x)
    elif self.resize == 'up':
      x = Upsample(self.time, self.loop, name='upsamplers_0')(x)
    return x, new_cache


class Encoder(nn.Module):
  """Maps a chunk of frames to unscaled (mean | log-variance) and a cache."""

  config: Any  # A `CausalVAEConfig`, whose module imports this one.
  loop: bool = False

  @nn.compact
  def __call__(
    self, frames: jax.Array, cache: dict[str, Any] | None = None
  ) -> tuple[jax.Array, dict[str, Any]]:
    c = self.config
    cache = cache or {}
    new_cache: dict[str, Any] = {}
    last = len(c.block_out_channels) - 1
    x = layers.space_to_depth(frames, c.patch_size)
    conv_in = CausalConv3d(
      c.block_out_channels[0], loop=self.loop, name='conv_in'
    )
    x, new_cache['conv_in'] = conv_in(x, cache.get('conv_in'))
    for i, features in enumerate(c.block_out_channels):
      name = f'down_blocks_{i}'
      level = Level(
        features=features,
        blocks=c.layers_per_block,
        groups=c.norm_num_groups,
        eps=c.norm_eps,
        resize='down' if i < last else None,
        time=i < c.time_levels,
        loop=self.loop,
        name=name,
      )
      x, new_cache[name] = level(x, cache.get(name))
    mid = Level(
      features=c.block_out_channels[-1],
      blocks=2,
      groups=c.norm_num_groups,
      eps=c.norm_eps,
      loop=self.loop,
      name='mid_block',
    )
    x, new_cache['mid_block'] = mid(x, cache.get('mid_block'))
    norm = GroupNorm(c.norm_num_groups, c.norm_eps, name='norm_out')
    conv_out = CausalConv3d(
      2 * c.latent_channels, loop=self.loop, name='conv_out'
    )
    x, new_cache['conv_out'] = conv_out(
      x, cache.get('conv_out'), *activation(norm, x, None)
    )
    if c.linear_shortcut:
      patches = patchify3d(
        frames, c.temporal_compression_ratio, c.spatial_compression
      )
      x = x.at[..., : c.latent_channels].add(
        nn.Dense(c.latent_channels, name='linear_shortcut')(patches)
      )
    return x, new_cache


class Decoder(nn.Module):
  """Maps a chunk of unscaled latents to frames and a cache."""

  config: Any  # A `CausalVAEConfig`, whose module imports this one.
  loop: bool = False

  @nn.compact
  def __call__(
    self, latents: jax.Array, cache: dict[str, Any] | None = None
  ) -> tuple[jax.Array, dict[str, Any]]:
    c = self.config
    cache = cache or {}
    new_cache: dict[str, Any] = {}
    widths = c.block_out_channels[::-1]
    last = len(widths) - 1
    linear = None
    if c.linear_shortcut:
      time, space = c.temporal_compression_ratio, c.spatial_compression
      shortcut = nn.Dense(
        time * space**2 * c.out_channels, name='linear_shortcut'
      )
      linear = unpatchify3d(
        shortcut(latents),
        time,
        space,
        single_first=latents.shape[1] % 2 == 1,
      )
    conv_in = CausalConv3d(widths[0], loop=self.loop, name='conv_in')
    x, new_cache['conv_in'] = conv_in(latents, cache.get('conv_in'))
    mid = Level(
      features=widths[0],
      blocks=2,
      groups=c.norm_num_groups,
      eps=c.norm_eps,
      loop=self.loop,
      name='mid_block',
    )
    x, new_cache['mid_block'] = mid(x, cache.get('mid_block'), latents)
    for i, features in enumerate(widths):
      name = f'up_blocks_{i}'
      level = Level(
        features=features,
        blocks=c.layers_per_block + 1,
        groups=c.norm_num_groups,
        eps=c.norm_eps,
        resize='up' if i < last else None,
        time=i < c.time_levels,
        loop=self.loop,
        name=name,
      )
      if linear is not None and c.refine_linear and i == last:
        refine = CausalConv3d(x.shape[-1], loop=self.loop, name='refine')
        x, new_cache['refine'] = refine(
          layers.space_to_depth(linear, c.patch_size),
          cache.get('refine'),
          add=x,
        )
      x, new_cache[name] = level(x, cache.get(name), latents)
    norm = SpatialNorm(c.norm_num_groups, c.norm_eps, name='norm_out')
    conv_out = CausalConv3d(
      c.out_channels * c.patch_size**2, loop=self.loop, name='conv_out'
    )
    x, new_cache['conv_out'] = conv_out(
      x, cache.get('conv_out'), *activation(norm, x, latents)
    )
    frames = layers.depth_to_space(x, c.patch_size)
    if linear is not None:
      frames = frames + linear
    return frames, new_cache
