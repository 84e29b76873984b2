"""Stable Diffusion's autoencoder (Rombach et al. 2022), frame by frame.

Frames [B, F, H, W, 3] in [-1, 1] become latents [B, F, H/8, W/8, c]. Each
frame is encoded and decoded on its own, one frame of the whole batch after
the other, so that memory does not grow with their number.

The scale of the latents lives here and nowhere else: `encode` returns, and
`decode` takes, latents in the diffusion model's units.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax.models import layers
from ttt_jax.models import resnet
from ttt_jax.models.vae import causal3d

_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class KLVAEConfig:
  """Sizes of a `KLVAE`; the defaults are Stable Diffusion's.

  Attributes:
    in_channels: of the frames.
    out_channels: of the decoded frames.
    latent_channels: c.
    block_out_channels: features of each level, the finest first.
    layers_per_block: residual blocks of a level of the encoder; one more in
      the decoder.
    norm_num_groups: of every group norm.
    scaling_factor: latents in model units are z times this.
    sample_size: pixel rows and columns in pre-training, None if unknown.
  """

  in_channels: int = 3
  out_channels: int = 3
  latent_channels: int = 4
  block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  norm_num_groups: int = 32
  scaling_factor: float = 0.18215
  sample_size: int | None = 512

  def __post_init__(self):
    for channels in self.block_out_channels:
      if channels % self.norm_num_groups:
        raise ValueError(
          f'block_out_channels {channels} is not a multiple of'
          f' norm_num_groups {self.norm_num_groups}'
        )

  @property
  def spatial_compression(self) -> int:
    return 2 ** (len(self.block_out_channels) - 1)

  def check_frames(self, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless frames of this shape can be encoded."""
    if len(shape) != 5 or shape[-1] != self.in_channels:
      raise ValueError(
        f'frames of shape {shape} are not'
        f' [batch, frames, height, width, {self.in_channels}]'
      )
    space = self.spatial_compression
    if shape[2] % space or shape[3] % space:
      raise ValueError(
        f'frames of {shape[2]}x{shape[3]} cannot be encoded: height and'
        f' width must be multiples of {space}'
      )

  def check_latents(self, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless latents of this shape can be decoded."""
    if len(shape) != 5 or shape[-1] != self.latent_channels:
      raise ValueError(
        f'latents of shape {shape} are not'
        f' [batch, frames, height, width, {self.latent_channels}]'
      )


class PixelAttention(nn.Module):
  """All pixels of a frame attend to each other, with one head."""

  groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, h, w, C] -> [B, h, w, C]."""
    b, h, w, c = x.shape
    dense = lambda name: layers.Dense(c, dtype=self.dtype, name=name)
    y = resnet.GroupNorm(self.groups, _EPS, name='norm')(x)
    y = y.reshape(b, h * w, c)
    q, k, v = (dense(name)(y)[:, :, None] for name in ('to_q', 'to_k', 'to_v'))
    y = jax.nn.dot_product_attention(q, k, v)[:, :, 0]
    return x + dense('to_out')(y).reshape(x.shape)


class _Coder(nn.Module):
  """What encoder and decoder are made of."""

  config: KLVAEConfig
  dtype: Any

  def _block(self, x, features, name):
    groups = self.config.norm_num_groups
    return resnet.ResnetBlock(features, groups, _EPS, self.dtype, name=name)(x)

  def _mid(self, x):
    features = self.config.block_out_channels[-1]
    x = self._block(x, features, 'mid_block_resnets_0')
    x = PixelAttention(
      self.config.norm_num_groups, self.dtype, name='mid_block_attentions_0'
    )(x)
    return self._block(x, features, 'mid_block_resnets_1')

  def _out(self, x, features):
    groups = self.config.norm_num_groups
    x = nn.silu(resnet.GroupNorm(groups, _EPS, name='norm_out')(x))
    return resnet.conv(features, 3, self.dtype, 'conv_out')(x)


class Encoder(_Coder):
  """A frame to unscaled mean and log-variance."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, H, W, 3] -> [B, H/8, W/8, 2 c]."""
    c = self.config
    x = resnet.conv(c.block_out_channels[0], 3, self.dtype, 'conv_in')(x)
    for level, features in enumerate(c.block_out_channels):
      name = f'down_blocks_{level}'
      for i in range(c.layers_per_block):
        x = self._block(x, features, f'{name}_resnets_{i}')
      if level < len(c.block_out_channels) - 1:
        # Padded at the right and the bottom alone.
        x = resnet.Downsample(
          self.dtype, (0, 1), name=f'{name}_downsamplers_0'
        )(x)
    return self._out(self._mid(x), 2 * c.latent_channels)


class Decoder(_Coder):
  """An unscaled latent to a frame."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, H/8, W/8, c] -> [B, H, W, 3]."""
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
  """The autoencoder; `apply(..., method='encode')` and `'decode'`.

  Attributes:
    config: sizes.
    dtype: of the network's activations. Norms and results are float32.
  """

  config: KLVAEConfig
  dtype: Any = jnp.float32

  def setup(self):
    c = self.config
    self.encoder = Encoder(c, self.dtype)
    self.decoder = Decoder(c, self.dtype)
    self.quant = layers.Dense(2 * c.latent_channels, dtype=self.dtype)
    self.post_quant = layers.Dense(c.latent_channels, dtype=self.dtype)

  def __call__(self, frames: jax.Array) -> jax.Array:
    """Reconstructs `frames`; creates all parameters when initialising."""
    mean, _ = self.encode(frames)
    return self.decode(mean)

  def encode(self, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and log-variance of the latents, in model units.

    Args:
      frames: [B, F, H, W, 3] float in [-1, 1].

    Returns:
      mean, logvar: float32 [B, F, H/8, W/8, c].

    Raises:
      ValueError: a size that the compression does not divide.
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
    """Returns frames float32 [B, F, H, W, 3], about [-1, 1], unclipped.

    Args:
      latents: [B, F, H/8, W/8, c] in model units.
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
    """A function of [B, ...] of each frame of x [B, F, ...]."""
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
  """Fresh parameters, nested dict; they do not depend on a video's size."""
  side = config.spatial_compression
  frames = jnp.zeros((1, 1, side, side, config.in_channels))
  return KLVAE(config).init(key, frames)['params']
