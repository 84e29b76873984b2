"""Stable Diffusion's autoencoder (Rombach et al. 2022), frame by frame.

Frames [B, F, H, W, 3] in [-1, 1] become latents [B, F, H/8, W/8, c]. Each frame
is encoded and decoded on its own. A loop processes one frame of the complete
batch at a time, so that memory does not grow with the number of frames.

Only this module applies the scale of the latents: `encode` returns, and
`decode` takes, latents in the diffusion model's units.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax.models import layers
from ttt_jax.models import resnet
from ttt_jax.models.vae import causal3d
from ttt_jax.runtime import schema

_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class KLVAEConfig:
  """Sizes of a `KLVAE`; defaults are Stable Diffusion's.

  Attributes:
    in_channels: Channels of the frames.
    out_channels: Channels of the decoded frames.
    latent_channels: Channels of the latents, c.
    block_out_channels: Features of each level, the finest first.
    layers_per_block: Residual blocks per encoder level; decoder levels have one
      more.
    norm_num_groups: Channel groups of every group norm.
    scaling_factor: Factor of latents in model units.
    sample_size: Pixel rows and columns in pre-training; None if unknown.
  """

  in_channels: schema.PositiveInt = 3
  out_channels: schema.PositiveInt = 3
  latent_channels: schema.PositiveInt = 4
  block_out_channels: schema.Levels = (128, 256, 512, 512)
  layers_per_block: schema.Depth = 2
  norm_num_groups: schema.PositiveInt = 32
  scaling_factor: schema.PositiveFloat = 0.18215
  sample_size: schema.PositiveInt | schema.Levels | None = 512

  def __post_init__(self):
    schema.check_fields(self, 'KLVAEConfig')
    layers.check_groups(self.block_out_channels, self.norm_num_groups)

  @property
  def spatial_compression(self) -> int:
    return 2 ** (len(self.block_out_channels) - 1)

  def check_frames(self, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless frames of this shape can be encoded."""
    causal3d.check_shape('frames', shape, self.in_channels)
    space = self.spatial_compression
    if shape[2] % space or shape[3] % space:
      raise ValueError(
        f'frames of {shape[2]}x{shape[3]} cannot be encoded: height and'
        f' width must be multiples of {space}'
      )

  def check_latents(self, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless latents of this shape can be decoded."""
    causal3d.check_shape('latents', shape, self.latent_channels)


class PixelAttention(nn.Module):
  """Attention among all pixels of a frame, with one head."""

  groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, C] to [B, h, w, C]."""
    b, h, w, c = x.shape
    dense = lambda name: layers.Dense(c, dtype=self.dtype, name=name)
    y = resnet.GroupNorm(groups=self.groups, eps=_EPS, name='norm')(x)
    y = y.reshape(b, h * w, c)
    q, k, v = (dense(name)(y)[:, :, None] for name in ('to_q', 'to_k', 'to_v'))
    y = jax.nn.dot_product_attention(q, k, v)[:, :, 0]
    return x + dense('to_out')(y).reshape(x.shape)


class _Coder(nn.Module):
  """Parts that encoder and decoder share."""

  config: KLVAEConfig
  dtype: Any

  def _block(self, x, features, name):
    return resnet.ResnetBlock(
      features=features,
      groups=self.config.norm_num_groups,
      eps=_EPS,
      dtype=self.dtype,
      name=name,
    )(x)

  def _mid(self, x):
    features = self.config.block_out_channels[-1]
    x = self._block(x, features, 'mid_block_resnets_0')
    x = PixelAttention(
      groups=self.config.norm_num_groups,
      dtype=self.dtype,
      name='mid_block_attentions_0',
    )(x)
    return self._block(x, features, 'mid_block_resnets_1')

  def _out(self, x, features):
    norm = resnet.GroupNorm(
      groups=self.config.norm_num_groups, eps=_EPS, name='norm_out'
    )
    return resnet.conv(features, 3, self.dtype, 'conv_out')(nn.silu(norm(x)))


class Encoder(_Coder):
  """Encoder of a frame to unscaled mean and log-variance."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, W, 3] to [B, H/8, W/8, 2 c]."""
    c = self.config
    x = resnet.conv(c.block_out_channels[0], 3, self.dtype, 'conv_in')(x)
    for level, features in enumerate(c.block_out_channels):
      name = f'down_blocks_{level}'
      for i in range(c.layers_per_block):
        x = self._block(x, features, f'{name}_resnets_{i}')
      if level < len(c.block_out_channels) - 1:
        # Padding only at the right and the bottom.
        x = resnet.Downsample(
          dtype=self.dtype, padding=(0, 1), name=f'{name}_downsamplers_0'
        )(x)
    return self._out(self._mid(x), 2 * c.latent_channels)


class Decoder(_Coder):
  """Decoder of an unscaled latent to a frame."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H/8, W/8, c] to [B, H, W, 3]."""
    c = self.config
    x = resnet.conv(c.block_out_channels[-1], 3, self.dtype, 'conv_in')(x)
    x = self._mid(x)
    last = len(c.block_out_channels) - 1
    for level, features in enumerate(reversed(c.block_out_channels)):
      name = f'up_blocks_{level}'
      for i in range(c.layers_per_block + 1):
        x = self._block(x, features, f'{name}_resnets_{i}')
      if level < last:
        x = resnet.Upsample(self.dtype, name=f'{name}_upsamplers_0')(x)
    return self._out(x, c.out_channels)


class KLVAE(nn.Module):
  """The autoencoder, for `apply(..., method='encode')` and `'decode'`.

  Attributes:
    config: Sizes.
    dtype: Dtype of the activations. Norms and results are float32.
  """

  config: KLVAEConfig
  dtype: Any = jnp.float32

  def setup(self) -> None:
    c = self.config
    self.encoder = Encoder(c, self.dtype)
    self.decoder = Decoder(c, self.dtype)
    self.quant = layers.Dense(2 * c.latent_channels, dtype=self.dtype)
    self.post_quant = layers.Dense(c.latent_channels, dtype=self.dtype)

  def __call__(self, frames: jax.Array) -> jax.Array:
    """Reconstructs `frames`; initialisation creates all parameters."""
    mean, _ = self.encode(frames)
    return self.decode(mean)

  def encode(self, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and log-variance of the latents, in model units.

    Args:
      frames: Float [B, F, H, W, 3] in [-1, 1].

    Returns:
      mean, logvar: float32 [B, F, H/8, W/8, c].

    Raises:
      ValueError: the compression does not divide a size.
    """
    c = self.config
    c.check_frames(frames.shape)
    moments = self._by_frames(
      lambda module, x: module.quant(module.encoder(x)), frames
    )
    mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    logvar = jnp.clip(logvar, *causal3d.LOGVAR_RANGE)
    return mean * c.scaling_factor, logvar + 2 * jnp.log(c.scaling_factor)

  def decode(self, latents: jax.Array) -> jax.Array:
    """Returns unclipped frames, float32 [B, F, H, W, 3] of about [-1, 1].

    Args:
      latents: Latents [B, F, H/8, W/8, c] in model units.
    """
    c = self.config
    c.check_latents(latents.shape)
    frames = self._by_frames(
      lambda module, x: module.decoder(module.post_quant(x)),
      latents / c.scaling_factor,
    )
    return frames.astype(jnp.float32)

  def _by_frames(
    self, function: Callable[[KLVAE, jax.Array], jax.Array], x: jax.Array
  ) -> jax.Array:
    """Applies a function of [B, ...] to each frame of x [B, F, ...]."""
    if x.shape[1] == 1:
      return function(self, x[:, 0])[:, None]
    scan = nn.scan(
      lambda module, carry, frame: (carry, function(module, frame)),
      variable_broadcast='params',
      split_rngs={'params': False},
      in_axes=1,
      out_axes=1,
    )
    return scan(self, None, x)[1]


def init_params(config: KLVAEConfig, key: jax.Array) -> Any:
  """Returns fresh parameters, a nested dict, for videos of any size."""
  side = config.spatial_compression
  frames = jnp.zeros((1, 1, side, side, config.in_channels))
  return KLVAE(config).init(key, frames)['params']


abstract_params = functools.partial(layers.abstract_params, init_params)
