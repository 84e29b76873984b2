"""Norms over the frames of one chunk, and residual blocks.

Statistics are those of a complete chunk; the normalisation that follows from
them is pointwise. A norm is therefore returned as a function, which the next
convolution applies to frames as it reads them.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax.models import resnet
from ttt_jax.models.vae.causal_conv import CausalConv3d
from ttt_jax.models.vae.causal_conv import Prepare
from ttt_jax.models.vae.causal_conv import repeat_frames


class GroupNorm(resnet.GroupNorm):
  """Group normalisation over the frames of one chunk, as a function."""

  def __call__(
    self, x: jax.Array, latents: jax.Array | None = None
  ) -> tuple[Prepare, Any]:
    """Returns the function that normalises frames of x, and its maps (none)."""
    del latents
    mean, scale, bias = self.coefficients(x)
    return lambda part, maps: (part - mean) * scale + bias, ()


class SpatialNorm(nn.Module):
  """Group normalisation scaled and shifted by the latents (decoder only)."""

  groups: int
  eps: float

  @nn.compact
  def __call__(self, x: jax.Array, latents: jax.Array) -> tuple[Prepare, Any]:
    """Returns the function that normalises frames of x, and its maps."""
    # The 1x1x1 convolutions commute with the repetition over height and width,
    # so they run before it.
    maps = tuple(
      repeat_frames(
        CausalConv3d(x.shape[-1], 1, name=name)(latents)[0], x.shape[1]
      )
      for name in ('conv_y', 'conv_b')
    )
    norm = GroupNorm(groups=self.groups, eps=self.eps, name='norm_layer')
    normalise, _ = norm(x)

    def apply(part, maps):
      scale, shift = (resize_nearest(m, *part.shape[2:4]) for m in maps)
      return normalise(part, ()) * scale + shift

    return apply, maps


def resize_nearest(z: jax.Array, height: int, width: int) -> jax.Array:
  """Resizes [B, f, h, w, c] to multiples of h and w by repetition."""
  for axis, size in ((2, height), (3, width)):
    z = jnp.repeat(z, size // z.shape[axis], axis=axis)
  return z


def activation(
  norm: nn.Module, x: jax.Array, latents: jax.Array | None
) -> tuple[Prepare, Any]:
  """Returns SiLU(norm(x)) as a function of frames of x, and its maps."""
  normalise, maps = norm(x, latents)
  # Cast to the compute type, since statistics and normalised frames are
  # float32.
  return lambda part, maps: nn.silu(normalise(part, maps)).astype(x.dtype), maps


class ResnetBlock(nn.Module):
  """Two causal convolutions with normalisation, and a residual.

  Attributes:
    features: Channels of the result.
    groups: Channel groups of the norms.
    eps: Epsilon of the norms.
    loop: Option of `CausalConv3d`.
  """

  features: int
  groups: int
  eps: float
  loop: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    cache: dict[str, Any] | None = None,
    latents: jax.Array | None = None,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Returns the result and the cache; with `latents`, norms are spatial."""
    cache = cache or {}
    kind = GroupNorm if latents is None else SpatialNorm
    norm = lambda name: kind(groups=self.groups, eps=self.eps, name=name)
    conv = lambda name: CausalConv3d(self.features, loop=self.loop, name=name)

    new_cache = {}
    y, new_cache['conv1'] = conv('conv1')(
      x, cache.get('conv1'), *activation(norm('norm1'), x, latents)
    )
    if x.shape[-1] != self.features:
      x, _ = CausalConv3d(self.features, 1, name='conv_shortcut')(x)
    y, new_cache['conv2'] = conv('conv2')(
      y, cache.get('conv2'), *activation(norm('norm2'), y, latents), add=x
    )
    return y, new_cache
