"""Group normalisation over the frames of one window, and residual blocks.

Statistics are of a whole window, what follows from them is point by point:
a norm is returned as a function that the next convolution applies to the
frames as it reads them.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from ttt_jax.models.vae.causal_conv import CausalConv3d
from ttt_jax.models.vae.causal_conv import lengthen
from ttt_jax.models.vae.causal_conv import Prepare


class GroupNorm(nn.Module):
  """Group normalisation over the frames of one window.

  Sums run per channel first and join channels to groups after: reducing
  over the few channels of a group directly is several times slower on CPU.
  """

  groups: int
  eps: float = 1e-6

  @nn.compact
  def __call__(self, x, latents=None) -> tuple[Prepare, Any]:
    """The function that normalises frames of x, and its maps (none)."""
    del latents
    channels = x.shape[-1]
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))

    def group_mean(values):
      mean = values.astype(_at_least_float32(x)).mean(axis=(1, 2, 3))
      mean = mean.reshape(values.shape[0], self.groups, -1).mean(-1)
      return jnp.repeat(mean, channels // self.groups, -1)[
        :, None, None, None, :
      ]

    mean = group_mean(x)
    factor = lax.rsqrt(group_mean(jnp.square(x - mean)) + self.eps) * scale
    return lambda part, maps: (part - mean) * factor + bias, ()


class SpatialNorm(nn.Module):
  """Group normalisation scaled and shifted by the latents (decoder only)."""

  groups: int
  eps: float = 1e-6

  @nn.compact
  def __call__(self, x, latents) -> tuple[Prepare, Any]:
    """The function that normalises frames of x, and its maps."""
    # The maps are point by point, so they may run before they are stretched
    # over height and width.
    maps = tuple(
      lengthen(CausalConv3d(x.shape[-1], 1, name=name)(latents)[0], x.shape[1])
      for name in ('conv_y', 'conv_b')
    )
    normalise, _ = GroupNorm(self.groups, self.eps, name='norm_layer')(x)

    def apply(part, maps):
      scale, shift = (stretch(m, *part.shape[2:4]) for m in maps)
      return normalise(part, ()) * scale + shift

    return apply, maps


def stretch(z: jax.Array, height: int, width: int) -> jax.Array:
  """Nearest-neighbour resize of [B,f,h,w,c] to whole multiples."""
  for axis, size in ((2, height), (3, width)):
    z = jnp.repeat(z, size // z.shape[axis], axis=axis)
  return z


def activation(norm: nn.Module, x: jax.Array, latents) -> tuple[Prepare, Any]:
  """SiLU of the norm of x, as a function of its frames, and its maps."""
  normalise, maps = norm(x, latents)
  # In the compute type: statistics and what they scale are float32.
  return lambda part, maps: nn.silu(normalise(part, maps)).astype(x.dtype), maps


class ResnetBlock(nn.Module):
  """Two causal convolutions with normalisation, and a residual."""

  features: int
  groups: int
  eps: float
  loop: bool = False

  @nn.compact
  def __call__(self, x, cache=None, latents=None):
    """Returns (y, cache); with `latents` the norms are spatial norms."""
    cache = cache or {}
    kind = GroupNorm if latents is None else SpatialNorm
    norm = lambda name: kind(self.groups, self.eps, name=name)
    conv = lambda name: CausalConv3d(self.features, loop=self.loop, name=name)

    after = {}
    y, after['conv1'] = conv('conv1')(
      x, cache.get('conv1'), *activation(norm('norm1'), x, latents)
    )
    if x.shape[-1] != self.features:
      x, _ = CausalConv3d(self.features, 1, name='conv_shortcut')(x)
    y, after['conv2'] = conv('conv2')(
      y, cache.get('conv2'), *activation(norm('norm2'), y, latents), add=x
    )
    return y, after


def _at_least_float32(x: jax.Array) -> jnp.dtype:
  return jnp.promote_types(x.dtype, jnp.float32)
