"""Residual blocks and changes of resolution with per-frame convolutions.

The convolutions are the pseudo-3-D ones of Tune-A-Video, with kernels of
1 x 3 x 3. Norms take statistics over all axes between the first and the last:
over all frames of a clip for [B, F, h, w, C], over one frame for [N, h, w, C].
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax.models import layers
from ttt_jax.models.frames import Frames


class GroupNorm(nn.Module):
  """Group normalisation over all axes but the first, in float32.

  Sums run per channel first and over the channels of a group afterwards:
  reducing over both at once is several times slower on CPU.

  Attributes:
    groups: Number of channel groups.
    eps: Epsilon added to the variance.
    frames: Distribution of the frames over devices; None if each clip is on one
      device.
  """

  groups: int
  eps: float
  frames: Frames | None = None

  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises [N, ..., C]; returns float32 [N, ..., C]."""
    mean, scale, bias = self.coefficients(x)
    return (x - mean) * scale + bias

  @nn.compact
  def coefficients(
    self, x: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns mean, scale and bias: the norm of x is (x - mean) * scale + bias.

    Args:
      x: Array [N, ..., C].

    Returns:
      At least float32, [N, 1, ..., C]; the bias is [C].
    """
    channels = x.shape[-1]
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def group_mean(values):
      if self.frames is None:
        mean = values.mean(axis=tuple(range(1, x.ndim - 1)))
      else:
        mean = self.frames.mean(values)
      mean = mean.reshape(len(x), self.groups, -1).mean(-1)
      mean = jnp.repeat(mean, channels // self.groups, axis=-1)
      return mean.reshape(len(x), *[1] * (x.ndim - 2), channels)

    mean = group_mean(x)
    # Two passes: E[x^2] - E[x]^2 loses digits that parity tests require.
    variance = group_mean(jnp.square(x - mean))
    return mean, jax.lax.rsqrt(variance + self.eps) * scale, bias


def conv(features: int, size: int, dtype: Any, name: str) -> nn.Conv:
  """Returns a `size` x `size` convolution that keeps the resolution."""
  return nn.Conv(features, (size, size), dtype=dtype, name=name)


class ResnetBlock(nn.Module):
  """Two normalised convolutions, the time embedding between them, a residual.

  Attributes:
    features: Channels of the result.
    groups: Channel groups of the norms.
    eps: Epsilon of the norms.
    dtype: Compute type.
    frames: Distribution of the frames over devices, see `GroupNorm`.
  """

  features: int
  groups: int
  eps: float
  dtype: Any
  frames: Frames | None = None

  @nn.compact
  def __call__(self, x: jax.Array, time: jax.Array | None = None) -> jax.Array:
    """Returns the block's output, [N, ..., h, w, features].

    Args:
      x: Array [N, ..., h, w, C].
      time: Time embedding after its SiLU, [N, E]; None for an autoencoder.
    """
    norm = lambda name: GroupNorm(
      groups=self.groups, eps=self.eps, frames=self.frames, name=name
    )
    y = nn.silu(norm('norm1')(x))
    y = conv(self.features, 3, self.dtype, 'conv1')(y)
    if time is not None:
      time = layers.Dense(self.features, dtype=self.dtype, name='time')(time)
      y = y + time.reshape(len(x), *[1] * (x.ndim - 2), self.features)
    y = nn.silu(norm('norm2')(y))
    y = conv(self.features, 3, self.dtype, 'conv2')(y)
    if x.shape[-1] != self.features:
      x = conv(self.features, 1, self.dtype, 'conv_shortcut')(x)
    return x.astype(self.dtype) + y


class Downsample(nn.Module):
  """Halves height and width with one convolution.

  Attributes:
    dtype: Compute type.
    padding: Pixels of padding (before, after) per axis: (1, 1) in the U-Net,
      (0, 1) in the autoencoder.
  """

  dtype: Any
  padding: tuple[int, int] = (1, 1)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return nn.Conv(
      x.shape[-1],
      (3, 3),
      strides=2,
      padding=[self.padding] * 2,
      dtype=self.dtype,
      name='conv',
    )(x)


class Upsample(nn.Module):
  """Doubles height and width by repetition, then convolves once."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for axis in (-3, -2):
      x = jnp.repeat(x, 2, axis=axis)
    return conv(x.shape[-1], 3, self.dtype, 'conv')(x)
