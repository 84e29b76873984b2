"""The causal video autoencoder of CogVideoX (arXiv 2408.06072) in flax.

Frames [B, F', H, W, 3] in [-1, 1] become latents [B, F, H/8, W/8, c], with F' =
4 (F - 1) + 1: the first frame is encoded on its own. Encoder and decoder
process chunks in time, as in diffusers: 8 frames or 2 latents per chunk, and
the remainder joins the first chunk. Group normalisation takes statistics over
one chunk, so chunks are part of the model. The first chunk runs on its own, the
following ones of equal length in one `lax.scan`: compile time and working
memory do not grow with the length of the video.

Only this module applies the scale and shift of the latents: `encode` returns,
and `decode` takes, latents in the diffusion model's units.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from ttt_jax.models import layers
from ttt_jax.models.vae.coder import Decoder
from ttt_jax.models.vae.coder import Encoder
from ttt_jax.runtime import schema

LOGVAR_RANGE = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True)
class CausalVAEConfig:
  """Sizes of a `CausalVAE`; defaults are CogVideoX-5B's.

  Attributes:
    in_channels: Channels of the frames.
    out_channels: Channels of the decoded frames.
    latent_channels: Channels of the latents, c.
    block_out_channels: Features of each level, the finest first.
    layers_per_block: Residual blocks per encoder level; decoder levels have one
      more.
    norm_num_groups: Channel groups of every group norm.
    norm_eps: Epsilon of every group norm.
    temporal_compression_ratio: Pixel frames per latent frame after the first.
    scaling_factor: Factor of latents in model units,
      (z - shift) * scaling_factor; one number or one per channel.
    shift: Shift of the same, one number or one per channel; None is 0.
    encode_window: Pixel frames per chunk of the encoder.
    decode_window: Latent frames per chunk of the decoder.
    patch_size: Side of the pixel patches that become channels before the
      network; 1, as in CogVideoX, is none.
    linear_shortcut: Adds a linear map of each latent's pixels to its mean, and
      one of each latent to the decoded pixels; False in CogVideoX.
    refine_linear: Gives the finest level of the decoder the pixels of its
      linear map to refine; False in CogVideoX.
  """

  in_channels: schema.PositiveInt = 3
  out_channels: schema.PositiveInt = 3
  latent_channels: schema.PositiveInt = 16
  block_out_channels: schema.Levels = (128, 256, 256, 512)
  layers_per_block: schema.Depth = 3
  norm_num_groups: schema.PositiveInt = 32
  norm_eps: schema.Epsilon = 1e-6
  temporal_compression_ratio: schema.PositiveInt = 4
  scaling_factor: schema.PositiveFloat | tuple[schema.PositiveFloat, ...] = 0.7
  shift: schema.FiniteFloat | tuple[schema.FiniteFloat, ...] | None = None
  encode_window: schema.PositiveInt = 8
  decode_window: schema.PositiveInt = 2
  patch_size: schema.PositiveInt = 1
  linear_shortcut: bool = False
  refine_linear: bool = False

  def __post_init__(self):
    schema.check_fields(self, 'CausalVAEConfig')
    ratio = self.temporal_compression_ratio
    if ratio & (ratio - 1):
      raise ValueError(
        f'temporal_compression_ratio {ratio} is not a power of two (e.g. 4)'
      )
    if self.time_levels >= len(self.block_out_channels):
      raise ValueError(
        f'block_out_channels {self.block_out_channels} has too few levels'
        f' to compress time by {ratio}: use at least {self.time_levels + 1}'
      )
    layers.check_groups(self.block_out_channels, self.norm_num_groups)
    if self.encode_window % ratio:
      raise ValueError(
        f'encode_window {self.encode_window} is not a multiple of'
        f' temporal_compression_ratio {ratio} (e.g. {2 * ratio})'
      )
    if self.decode_window % 2:
      raise ValueError(f'decode_window {self.decode_window} is odd: use 2')
    if self.refine_linear and not self.linear_shortcut:
      raise ValueError(
        'refine_linear has no linear map to refine: set linear_shortcut, too'
      )
    for name in ('scaling_factor', 'shift'):
      value = getattr(self, name)
      if isinstance(value, tuple) and len(value) != self.latent_channels:
        raise ValueError(
          f'{name} has {len(value)} values for {self.latent_channels}'
          ' latent channels: give one number, or one per channel'
        )

  @property
  def time_levels(self) -> int:
    return int(math.log2(self.temporal_compression_ratio))

  @property
  def spatial_compression(self) -> int:
    return self.patch_size * 2 ** (len(self.block_out_channels) - 1)

  def check_frames(self, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless frames of this shape can be encoded."""
    check_shape('frames', shape, self.in_channels)
    time, space = self.temporal_compression_ratio, self.spatial_compression
    count, height, width = shape[1:4]
    if count % time != 1 % time:
      valid = (count - 1) // time * time + 1
      raise ValueError(
        f'{count} frames cannot be encoded: the number must be a multiple'
        f' of {time} plus 1, e.g. {valid}'
      )
    if height % space or width % space:
      raise ValueError(
        f'frames of {height}x{width} cannot be encoded: height and width'
        f' must be multiples of {space}'
      )

  def check_latents(self, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless latents of this shape can be decoded."""
    check_shape('latents', shape, self.latent_channels)


def check_shape(name: str, shape: tuple[int, ...], channels: int) -> None:
  """Raises ValueError unless `shape` is [B, F, h, w, channels]."""
  if len(shape) != 5 or shape[-1] != channels:
    raise ValueError(
      f'{name} of shape {shape} are not [batch, frames, height, width,'
      f' {channels}]'
    )


def first_chunk_length(frames: int, chunk: int) -> int:
  """Returns the frames of the first chunk: `chunk` plus the remainder."""
  return chunk + frames % chunk if frames >= chunk else frames


class CausalVAE(nn.Module):
  """The autoencoder, for `apply(..., method='encode')` and `'decode'`.

  Attributes:
    config: Sizes.
    unroll: Unrolls the loops over chunks and frames. For training on short
      clips on CPU, where XLA runs the gradients of convolutions about ten times
      slower inside a loop.
    dtype: Dtype of the activations; None is the dtype of the input. Norms and
      results are at least float32.
  """

  config: CausalVAEConfig
  unroll: bool = False
  dtype: jnp.dtype | None = None

  def setup(self) -> None:
    self.encoder = Encoder(self.config, loop=not self.unroll)
    self.decoder = Decoder(self.config, loop=not self.unroll)

  def __call__(self, frames: jax.Array) -> jax.Array:
    """Reconstructs `frames`; initialisation creates all parameters."""
    mean, _ = self.encode(frames)
    return self.decode(mean)

  def encode(self, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and log-variance of the latents, in model units.

    Args:
      frames: Float [B, F', H, W, 3] in [-1, 1], F' = 4 (F - 1) + 1.

    Returns:
      mean, logvar: [B, F, H/8, W/8, c].

    Raises:
      ValueError: the compression does not divide a size.
    """
    c = self.config
    c.check_frames(frames.shape)
    time = c.temporal_compression_ratio
    moments = self._by_chunks(
      'encode_chunk', frames, c.encode_window, c.encode_window // time
    )
    return self.to_units(moments)

  def decode(self, latents: jax.Array) -> jax.Array:
    """Returns unclipped frames [B, 4 (F - 1) + 1, H, W, 3] of about [-1, 1].

    Args:
      latents: Latents [B, F, H/8, W/8, c] in model units.
    """
    c = self.config
    c.check_latents(latents.shape)
    return self._by_chunks(
      'decode_chunk',
      latents,
      c.decode_window,
      c.decode_window * c.temporal_compression_ratio,
    )

  def encode_chunk(
    self, frames: jax.Array, cache: dict[str, Any] | None = None
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Encodes one chunk; returns (moments, cache) for `to_units`."""
    moments, cache = self.encoder(self._cast(frames), cache)
    return moments.astype(_at_least_float32(moments)), cache

  def decode_chunk(
    self, latents: jax.Array, cache: dict[str, Any] | None = None
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Decodes one chunk; returns (frames, cache)."""
    scale, shift = self._units(latents.dtype)
    frames, cache = self.decoder(self._cast(latents / scale + shift), cache)
    return frames.astype(_at_least_float32(frames)), cache

  def to_units(self, moments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and logvar, in model units, of the moments of a chunk."""
    scale, shift = self._units(moments.dtype)
    mean, logvar = jnp.split(moments, 2, axis=-1)
    logvar = jnp.clip(logvar, *LOGVAR_RANGE) + 2 * jnp.log(scale)
    return (mean - shift) * scale, logvar

  def _cast(self, x):
    return x if self.dtype is None else x.astype(self.dtype)

  def _units(self, dtype):
    shift = 0.0 if self.config.shift is None else self.config.shift
    scale = jnp.asarray(self.config.scaling_factor, dtype)
    return scale, jnp.asarray(shift, dtype)

  def _by_chunks(
    self, method: str, x: jax.Array, chunk: int, out_chunk: int
  ) -> jax.Array:
    """Runs a method over x [B, F, ...] in chunks along axis 1.

    Args:
      method: Name of the method, which maps (chunk, cache) to (result, cache).
      x: All frames of a video.
      chunk: Frames per chunk.
      out_chunk: Frames of the result per chunk.
    """
    coder = getattr(self, method)
    split = first_chunk_length(x.shape[1], chunk)
    y, cache = coder(x[:, :split])
    if split == x.shape[1]:
      return y
    if self.unroll:
      parts = [y]
      for start in range(split, x.shape[1], chunk):
        y, cache = coder(x[:, start : start + chunk], cache)
        parts.append(y)
      return jnp.concatenate(parts, axis=1)
    count = (x.shape[1] - split) // chunk

    # Results are written into one array, so that memory holds no second copy.
    def step(module, carry, _):
      i, cache, out = carry
      part = lax.dynamic_slice_in_dim(x, split + i * chunk, chunk, axis=1)
      part, cache = getattr(module, method)(part, cache)
      at = y.shape[1] + i * out_chunk
      out = lax.dynamic_update_slice_in_dim(out, part, at, axis=1)
      return (i + 1, cache, out), None

    scan = nn.scan(
      step,
      variable_broadcast='params',
      split_rngs={'params': False},
      length=count,
    )
    pad = [(0, 0)] * y.ndim
    pad[1] = (0, count * out_chunk)
    carry = jnp.int32(0), cache, jnp.pad(y, pad)
    return scan(self, carry, None)[0][2]


def _at_least_float32(x: jax.Array) -> jnp.dtype:
  return jnp.promote_types(x.dtype, jnp.float32)


def init_params(config: CausalVAEConfig, key: jax.Array) -> Any:
  """Returns fresh parameters, a nested dict, for videos of any size."""
  side = config.spatial_compression
  frames = jnp.zeros((1, 1, side, side, config.in_channels))
  return CausalVAE(config).init(key, frames)['params']


abstract_params = functools.partial(layers.abstract_params, init_params)
