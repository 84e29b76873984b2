"""The causal video autoencoder of CogVideoX (arXiv 2408.06072) in flax.

Frames [B, F', H, W, 3] in [-1, 1] become latents [B, F, H/8, W/8, c], with
F' = 4 (F - 1) + 1: the first frame stands alone. Both ways run over windows
in time (8 frames in, 2 latents out; the remainder joins the first window), as
diffusers does: group normalisation sees one window at a time, so the windows
are part of the model. The first window runs by itself, the equal ones after
it inside one `lax.scan`: compile time and working memory do not grow with the
length of the video.

Scale and shift of the latents live here and nowhere else: `encode` returns,
and `decode` takes, latents in the diffusion model's units.
"""

from __future__ import annotations

import dataclasses
import math

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from ttt_jax.models.vae.coder import Decoder
from ttt_jax.models.vae.coder import Encoder

LOGVAR_RANGE = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True)
class CausalVAEConfig:
  """Sizes of a `CausalVAE`; the defaults are CogVideoX-5B's.

  Attributes:
    scaling_factor: latents in model units = (z - shift) * scaling_factor;
      one number or one a channel.
    shift: see above; None is 0.
    encode_window: pixel frames of a window when encoding.
    decode_window: latent frames of a window when decoding.
    patch_size: side of the pixel patches that become channels before the
      network (1: none, as CogVideoX).
    linear_shortcut: adds a linear map of each latent's block of pixels to the
      mean, and one of the latent to the decoded block (CogVideoX: False).
  """

  in_channels: int = 3
  out_channels: int = 3
  latent_channels: int = 16
  block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
  layers_per_block: int = 3
  norm_num_groups: int = 32
  norm_eps: float = 1e-6
  temporal_compression_ratio: int = 4
  scaling_factor: float | tuple[float, ...] = 0.7
  shift: float | tuple[float, ...] | None = None
  encode_window: int = 8
  decode_window: int = 2
  patch_size: int = 1
  linear_shortcut: bool = False

  def __post_init__(self):
    ratio = self.temporal_compression_ratio
    if ratio < 1 or ratio & (ratio - 1):
      raise ValueError(
        f'temporal_compression_ratio {ratio} is not a power of two (e.g. 4)'
      )
    if self.time_levels >= len(self.block_out_channels):
      raise ValueError(
        f'block_out_channels {self.block_out_channels} has too few levels'
        f' to compress time by {ratio}: use at least {self.time_levels + 1}'
      )
    for channels in self.block_out_channels:
      if channels % self.norm_num_groups:
        raise ValueError(
          f'block_out_channels {channels} is not a multiple of'
          f' norm_num_groups {self.norm_num_groups}'
        )
    if self.encode_window % ratio:
      raise ValueError(
        f'encode_window {self.encode_window} is not a multiple of'
        f' temporal_compression_ratio {ratio} (e.g. {2 * ratio})'
      )
    if self.decode_window % 2:
      raise ValueError(f'decode_window {self.decode_window} is odd: use 2')
    for name in ('scaling_factor', 'shift'):
      value = getattr(self, name)
      if isinstance(value, tuple) and len(value) != self.latent_channels:
        raise ValueError(
          f'{name} has {len(value)} values for {self.latent_channels}'
          ' latent channels: give one number, or one a channel'
        )

  @property
  def time_levels(self) -> int:
    return int(math.log2(self.temporal_compression_ratio))

  @property
  def spatial_compression(self) -> int:
    return self.patch_size * 2 ** (len(self.block_out_channels) - 1)

  def check_frames(self, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless frames of this shape can be encoded."""
    if len(shape) != 5 or shape[-1] != self.in_channels:
      raise ValueError(
        f'frames of shape {shape} are not'
        f' [batch, frames, height, width, {self.in_channels}]'
      )
    time, space = self.temporal_compression_ratio, self.spatial_compression
    count, height, width = shape[1:4]
    if count % time != 1 % time:
      near = (count - 1) // time * time + 1
      raise ValueError(
        f'{count} frames cannot be encoded: the number must be a multiple'
        f' of {time} plus 1, e.g. {near}'
      )
    if height % space or width % space:
      raise ValueError(
        f'frames of {height}x{width} cannot be encoded: height and width'
        f' must be multiples of {space}'
      )

  def check_latents(self, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless latents of this shape can be decoded."""
    if len(shape) != 5 or shape[-1] != self.latent_channels:
      raise ValueError(
        f'latents of shape {shape} are not'
        f' [batch, frames, height, width, {self.latent_channels}]'
      )


def first_chunk_length(frames: int, window: int) -> int:
  """Frames of the first window: `window` plus the remainder."""
  return window + frames % window if frames >= window else frames


class CausalVAE(nn.Module):
  """The autoencoder; `apply(..., method='encode')` and `'decode'`.

  Attributes:
    config: sizes.
    unroll: writes windows and frames out instead of looping. For training
      short clips on CPU, where XLA runs the gradients of convolutions inside
      a loop some ten times slower than outside.
    dtype: of the network's activations; None is that of its input. Norms
      and results are at least float32.
  """

  config: CausalVAEConfig
  unroll: bool = False
  dtype: jnp.dtype | None = None

  def setup(self):
    self.encoder = Encoder(self.config, loop=not self.unroll)
    self.decoder = Decoder(self.config, loop=not self.unroll)

  def __call__(self, frames: jax.Array) -> jax.Array:
    """Reconstructs `frames`; creates all parameters when initialising."""
    mean, _ = self.encode(frames)
    return self.decode(mean)

  def encode(self, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and log-variance of the latents, in model units.

    Args:
      frames: [B, F', H, W, 3] float in [-1, 1], F' = 4 (F - 1) + 1.

    Returns:
      mean, logvar: [B, F, H/8, W/8, c].

    Raises:
      ValueError: a size that the compression does not divide.
    """
    c = self.config
    c.check_frames(frames.shape)
    time = c.temporal_compression_ratio
    moments = self._windows(
      'encode_window', frames, c.encode_window, c.encode_window // time
    )
    return self.to_units(moments)

  def decode(self, latents: jax.Array) -> jax.Array:
    """Returns frames [B, 4 (F - 1) + 1, H, W, 3], about [-1, 1], unclipped.

    Args:
      latents: [B, F, H/8, W/8, c] in model units.
    """
    c = self.config
    c.check_latents(latents.shape)
    return self._windows(
      'decode_window',
      latents,
      c.decode_window,
      c.decode_window * c.temporal_compression_ratio,
    )

  def encode_window(self, frames, cache=None):
    """One window of `encode`, for streams: (moments, cache)."""
    moments, cache = self.encoder(self._cast(frames), cache)
    return moments.astype(_at_least_float32(moments)), cache

  def decode_window(self, latents, cache=None):
    """One window of `decode`, for streams: (frames, cache)."""
    scale, shift = self._units(latents.dtype)
    frames, cache = self.decoder(self._cast(latents / scale + shift), cache)
    return frames.astype(_at_least_float32(frames)), cache

  def to_units(self, moments):
    """Moments of `encode_window` -> mean, logvar in model units."""
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

  def _windows(
    self, method: str, x: jax.Array, window: int, per_window: int
  ) -> jax.Array:
    """Runs a method over x [B, F, ...] in windows along axis 1.

    Args:
      method: of this module, (window, cache) -> result, cache.
      x: the whole video.
      window: frames of a window.
      per_window: frames that one window becomes.
    """
    coder = getattr(self, method)
    split = first_chunk_length(x.shape[1], window)
    y, cache = coder(x[:, :split])
    if split == x.shape[1]:
      return y
    if self.unroll:
      parts = [y]
      for start in range(split, x.shape[1], window):
        y, cache = coder(x[:, start : start + window], cache)
        parts.append(y)
      return jnp.concatenate(parts, axis=1)
    count = (x.shape[1] - split) // window

    # The results are written where they belong: nothing but them grows.
    def step(module, carry, _):
      i, cache, out = carry
      part = lax.dynamic_slice_in_dim(x, split + i * window, window, axis=1)
      part, cache = getattr(module, method)(part, cache)
      at = y.shape[1] + i * per_window
      out = lax.dynamic_update_slice_in_dim(out, part, at, axis=1)
      return (i + 1, cache, out), None

    scan = nn.scan(
      step,
      variable_broadcast='params',
      split_rngs={'params': False},
      length=count,
    )
    pad = [(0, 0)] * y.ndim
    pad[1] = (0, count * per_window)
    carry = jnp.int32(0), cache, jnp.pad(y, pad)
    return scan(self, carry, None)[0][2]


def _at_least_float32(x: jax.Array) -> jnp.dtype:
  return jnp.promote_types(x.dtype, jnp.float32)
