"""Residual blocks and changes of resolution, convolving frame by frame.

The pseudo-3-D convolutions of Tune-A-Video: a kernel of 1 x 3 x 3. Norms see
what they are given: all frames of a clip in [B, F, h, w, C], one frame in
[N, h, w, C].
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

  Sums run per channel first and join channels to groups after: reducing
  over the few channels of a group directly is several times slower on CPU.

  Attributes:
    groups: of channels.
    eps: added to the variance.
    frames: of clips that are split over devices; None where all is here.
  """

  groups: int
  eps: float
  frames: Frames | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, ..., C] -> float32 [N, ..., C]."""
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

    # Two passes: E[x^2] - E[x]^2 loses the digits that parity needs.
    x = x - group_mean(x)
    factor = jax.lax.rsqrt(group_mean(jnp.square(x)) + self.eps)
    return x * (factor * scale) + bias


def conv(features: int, size: int, dtype: Any, name: str) -> nn.Conv:
  """A convolution of `size` x `size` pixels that keeps the resolution."""
  return nn.Conv(features, (size, size), dtype=dtype, name=name)


class ResnetBlock(nn.Module):
  """Two convolutions with norms, told the time between them, and a residual.

  Attributes:
    features: channels of the result.
    groups: of the norms.
    eps: of the norms.
    dtype: compute type.
    frames: of the norms.
  """

  features: int
  groups: int
  eps: float
  dtype: Any
  frames: Frames | None = None

  @nn.compact
  def __call__(self, x: jax.Array, time: jax.Array | None = None) -> jax.Array:
    """x [N, ..., h, w, C], time [N, E] after its SiLU -> x."""
    norm = lambda name: GroupNorm(self.groups, self.eps, self.frames, name=name)
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
    dtype: compute type.
    padding: pixels (before, after) each side: (1, 1) of the U-Net, (0, 1) of
      the autoencoder.
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
  """Doubles height and width: nearest neighbour, then one convolution."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for axis in (-3, -2):
      x = jnp.repeat(x, 2, axis=axis)
    return conv(x.shape[-1], 3, self.dtype, 'conv')(x)
