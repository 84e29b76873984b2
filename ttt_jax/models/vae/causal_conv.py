"""Layers of the causal video autoencoder, channel-last, with conv caches.

Letters: B batch, F frames of the window at hand, h w its height and width,
c channels. A causal convolution sees the current and the two previous frames;
between windows it hands on its last input frames as a cache, so that windows
join without a seam. `cache=None` starts a video: the first frame is repeated.
"""

from __future__ import annotations

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1,
           padding=((1, 1), (1, 1))) -> jax.Array:
  """2-D convolution of every frame: [B,F,h,w,i] * [kh,kw,i,o]."""
  frames = x.reshape((-1,) + x.shape[2:])
  y = lax.conv_general_dilated(
      frames, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT
  )
  return y.reshape(x.shape[:2] + y.shape[1:])


def causal_conv3d(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """3-D convolution, 'same' in space, 'valid' in time.

  Written as a sum of one 2-D convolution per time tap: XLA's own 3-D
  convolution reaches 25-50 GFLOP/s on two CPU cores, this form 100-170, and
  its automatic gradients keep that speed.

  Args:
    x: [B, F + kt - 1, h, w, i].
    kernel: [kt, kh, kw, i, o], odd kh and kw.

  Returns:
    [B, F, h, w, o].
  """
  taps, height, width = kernel.shape[:3]
  frames = x.shape[1] - taps + 1
  pad = ((height // 2,) * 2, (width // 2,) * 2)
  return sum(
      conv2d(x[:, i : i + frames], kernel[i], padding=pad)
      for i in range(taps)
  )


class CausalConv3d(nn.Module):
  """Convolution over time and space that never looks at a later frame."""

  features: int
  kernel_size: int = 3

  @nn.compact
  def __call__(self, x, cache=None):
    """Returns (y [B,F,h,w,features], cache [B,kernel_size-1,h,w,c])."""
    k = self.kernel_size
    kernel = self.param(
        'kernel', nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3)),
        (k, k, k, x.shape[-1], self.features),
    )
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    if cache is None:
      cache = jnp.repeat(x[:, :1], k - 1, axis=1)
    x = jnp.concatenate([cache, x], axis=1)
    return causal_conv3d(x, kernel) + bias, x[:, x.shape[1] - (k - 1):]


class Conv2d(nn.Module):
  """The same 3x3 convolution on every frame."""

  features: int
  stride: int = 1

  @nn.compact
  def __call__(self, x, padding=((1, 1), (1, 1))):
    kernel = self.param(
        'kernel', nn.initializers.lecun_normal(in_axis=(0, 1, 2)),
        (3, 3, x.shape[-1], self.features),
    )
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return conv2d(x, kernel, self.stride, padding) + bias


class GroupNorm(nn.Module):
  """Group normalisation over the frames of one window.

  Sums run per channel first and join channels to groups after: reducing
  over the few channels of a group directly is several times slower on CPU.
  """

  groups: int
  eps: float = 1e-6

  @nn.compact
  def __call__(self, x):
    channels = x.shape[-1]
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))

    def group_mean(values):
      mean = values.mean(axis=(1, 2, 3)).reshape(
          values.shape[0], self.groups, -1
      ).mean(-1)
      return jnp.repeat(mean, channels // self.groups, -1)[
          :, None, None, None, :
      ]

    centred = x - group_mean(x)
    inverse = lax.rsqrt(group_mean(centred * centred) + self.eps)
    return centred * (inverse * scale) + bias


def stretch(z: jax.Array, frames: int, height: int, width: int) -> jax.Array:
  """Nearest-neighbour resize of [B,f,h,w,c] to whole multiples.

  With an odd number of `frames` above one, the first frame stands alone (it
  is the video's first, which time compression leaves alone).
  """

  def repeat(part, count):
    for axis, size in ((1, count), (2, height), (3, width)):
      part = jnp.repeat(part, size // part.shape[axis], axis=axis)
    return part

  if frames > 1 and frames % 2:
    return jnp.concatenate(
        [repeat(z[:, :1], 1), repeat(z[:, 1:], frames - 1)], axis=1
    )
  return repeat(z, frames)


class SpatialNorm(nn.Module):
  """Group normalisation scaled and shifted by the latents (decoder only)."""

  groups: int
  eps: float = 1e-6

  @nn.compact
  def __call__(self, x, latents):
    # The maps are point by point, so they may run before the stretching.
    size = x.shape[1:4]
    scale, _ = CausalConv3d(x.shape[-1], 1, name='conv_y')(latents)
    shift, _ = CausalConv3d(x.shape[-1], 1, name='conv_b')(latents)
    normed = GroupNorm(self.groups, self.eps, name='norm_layer')(x)
    return normed * stretch(scale, *size) + stretch(shift, *size)


def halve_time(x: jax.Array) -> jax.Array:
  """Averages pairs of frames; an odd window's first frame stays alone."""
  first = x[:, : x.shape[1] % 2]
  rest = x[:, x.shape[1] % 2 :]
  pairs = rest.reshape(rest.shape[0], -1, 2, *rest.shape[2:]).mean(axis=2)
  return jnp.concatenate([first, pairs], axis=1)


class Downsample(nn.Module):
  """Halves height and width, and time if `time`."""

  time: bool

  @nn.compact
  def __call__(self, x):
    if self.time:
      x = halve_time(x)
    conv = Conv2d(x.shape[-1], stride=2, name='conv')
    return conv(x, padding=((0, 1), (0, 1)))


class Upsample(nn.Module):
  """Doubles height and width, and time if `time`."""

  time: bool

  @nn.compact
  def __call__(self, x):
    frames, height, width = x.shape[1:4]
    if self.time:
      frames = 2 * frames - frames % 2
    x = _double(x, frames, 2 * height, 2 * width)
    return Conv2d(x.shape[-1], name='conv')(x)


def _double(x, frames, height, width):
  """`stretch` where time may stay as it is."""
  if frames == x.shape[1]:
    return jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
  return stretch(x, frames, height, width)


class ResnetBlock(nn.Module):
  """Two causal convolutions with normalisation, and a residual."""

  features: int
  groups: int
  eps: float

  @nn.compact
  def __call__(self, x, cache=None, latents=None):
    """Returns (y, cache); with `latents` the norms are spatial norms."""
    cache = cache or {}

    def norm(name, value):
      if latents is None:
        return GroupNorm(self.groups, self.eps, name=name)(value)
      return SpatialNorm(self.groups, self.eps, name=name)(value, latents)

    after = {}
    y = nn.silu(norm('norm1', x))
    y, after['conv1'] = CausalConv3d(self.features, name='conv1')(
        y, cache.get('conv1')
    )
    y = nn.silu(norm('norm2', y))
    y, after['conv2'] = CausalConv3d(self.features, name='conv2')(
        y, cache.get('conv2')
    )
    if x.shape[-1] != self.features:
      x, _ = CausalConv3d(self.features, 1, name='conv_shortcut')(x)
    return x + y, after
