"""Stable Diffusion's U-Net, inflated to video (Tune-A-Video, section 3).

The network processes clips [B, F, h, w, c]: convolutions treat each frame
on its own, group norms of residual blocks take statistics over all frames of a
clip, and transformers also attend to other frames. For a still clip, and for a
clip of one frame, a fresh inflation returns the output of the 2-D model.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax import sharding
from ttt_jax.models import embeddings
from ttt_jax.models import frames as frames_lib
from ttt_jax.models import layers
from ttt_jax.models import resnet
from ttt_jax.models import softmax
from ttt_jax.models.unet3d import attention
from ttt_jax.models.unet3d import config as config_lib

UNet3DConfig = config_lib.UNet3DConfig


class Network(nn.Module):
  """The network on one device, which holds some frames of some clips."""

  config: UNet3DConfig
  frames: frames_lib.Frames

  @nn.compact
  def __call__(
    self, latents: jax.Array, text: jax.Array, timesteps: jax.Array
  ) -> jax.Array:
    """Maps [B, f, h, w, c], [B, L, Dt], [B] to float32 [B, f, h, w, c]."""
    c = self.config
    dtype = jnp.dtype(c.dtype)
    text = text.astype(dtype)
    time = self._time(timesteps)
    resnet_class, transformer_class = resnet.ResnetBlock, attention.Transformer
    if c.remat == 'layer':
      resnet_class = nn.remat(resnet_class)
      transformer_class = nn.remat(transformer_class)

    def block(x, features, name, i):
      return resnet_class(
        features=features,
        groups=c.norm_num_groups,
        eps=c.norm_eps,
        dtype=dtype,
        frames=self.frames,
        name=f'{name}_resnets_{i}',
      )(x, time)

    def transformer(x, level, name, i):
      return transformer_class(
        config=c,
        heads=c.num_heads[level],
        frames=self.frames,
        name=f'{name}_attentions_{i}',
      )(x, text)

    last = c.levels - 1
    x = resnet.conv(c.block_out_channels[0], 3, dtype, 'conv_in')(latents)
    skips = [x]
    for level, features in enumerate(c.block_out_channels):
      name = f'down_blocks_{level}'
      for i in range(c.layers_per_block):
        x = block(x, features, name, i)
        if c.cross_attention[level]:
          x = transformer(x, level, name, i)
        skips.append(x)
      if level < last:
        x = resnet.Downsample(dtype, name=f'{name}_downsamplers_0')(x)
        skips.append(x)

    x = block(x, c.block_out_channels[-1], 'mid_block', 0)
    x = transformer(x, last, 'mid_block', 0)
    x = block(x, c.block_out_channels[-1], 'mid_block', 1)

    for level in reversed(range(c.levels)):
      name = f'up_blocks_{last - level}'
      for i in range(c.layers_per_block + 1):
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = block(x, c.block_out_channels[level], name, i)
        if c.cross_attention[level]:
          x = transformer(x, level, name, i)
      if level:
        x = resnet.Upsample(dtype, name=f'{name}_upsamplers_0')(x)

    x = resnet.GroupNorm(
      groups=c.norm_num_groups,
      eps=c.norm_eps,
      frames=self.frames,
      name='norm_out',
    )(x)
    x = resnet.conv(c.out_channels, 3, dtype, 'conv_out')(nn.silu(x))
    return x.astype(jnp.float32)

  def _time(self, timesteps):
    """Returns the time embedding of [B] after its last SiLU, [B, 4 C]."""
    width = self.config.block_out_channels[0]
    dense = functools.partial(
      layers.Dense, 4 * width, dtype=jnp.dtype(self.config.dtype)
    )
    time = embeddings.timestep_embedding(timesteps, width)
    time = nn.silu(dense(name='time_1')(time))
    return nn.silu(dense(name='time_2')(time))


class UNet3D(nn.Module):
  """Predicts noise or v from noisy latents, text and timesteps.

  Attributes:
    config: Sizes and options.
    sharding_plan: Placement on the mesh: clips over `data`, frames over `sp`.
      Any number of frames is padded.
  """

  config: UNet3DConfig
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()

  @nn.compact
  def __call__(
    self, latents: jax.Array, text: jax.Array, timesteps: jax.Array
  ) -> jax.Array:
    """Returns `config.prediction`.

    Args:
      latents: Noisy latents [B, F, h, w, c].
      text: Text states [B, L, Dt], or [B, S, L, Dt] to concatenate to those.
      timesteps: Timesteps [B] from 0 (clean) to 999 (noise).

    Returns:
      float32 [B, F, h, w, c].

    Raises:
      ValueError: the shapes do not fit each other or the config.
    """
    c = self.config
    c.check_inputs(latents.shape, text.shape)
    c = dataclasses.replace(
      c, attention=softmax.choose(c.attention, self.sharding_plan.platform)
    )
    text = text.reshape(len(text), -1, c.text_dim)
    frames = frames_lib.Frames(
      total=latents.shape[1], parts=self.sharding_plan.sp
    )
    if self.sharding_plan.mesh is None or self.is_initializing():
      network = Network(c, dataclasses.replace(frames, parts=1))
      nn.share_scope(self, network)
      return network(latents, text, timesteps)
    network = Network(c, frames, parent=None)
    padding = ((0, 0), (0, frames.padding), (0, 0), (0, 0), (0, 0))
    return self.sharding_plan.by_frames(
      lambda params, *inputs: network.apply({'params': params}, *inputs),
      self.variables['params'],
      jnp.pad(latents, padding),
      text,
      timesteps,
    )[:, : frames.total]


def init_params(config: UNet3DConfig, key: jax.Array) -> Any:
  """Returns fresh parameters, a nested dict, for videos of any size."""
  side = 2 ** (config.levels - 1)
  return UNet3D(config).init(
    key,
    jnp.zeros((1, 1, side, side, config.in_channels)),
    jnp.zeros((1, 1, config.text_dim)),
    jnp.zeros(1),
  )['params']


abstract_params = functools.partial(layers.abstract_params, init_params)
