"""CLIP: images and texts in one space (Radford et al. 2021, arXiv:2103.00020).

The towers are Stable Diffusion's text encoder and a vision transformer. The
angle between their projections measures how well an image and a text match.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax.models import layers
from ttt_jax.models.text import clip as text_clip
from ttt_jax.runtime import schema


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig(text_clip.TowerConfig):
  """Sizes of the vision transformer; defaults are ViT-B/32's.

  Attributes:
    image_size: Pixel rows and columns of an image.
    patch_size: Pixel rows and columns of a patch.
  """

  image_size: schema.PositiveInt = 224
  patch_size: schema.PositiveInt = 32

  def __post_init__(self):
    super().__post_init__()
    if self.image_size % self.patch_size:
      raise ValueError(
        f'image_size {self.image_size} of CLIP is not a multiple of its'
        f' patch_size {self.patch_size}'
      )

  @property
  def patches(self) -> int:
    """Patches per image."""
    return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
  """Sizes of a `CLIP`.

  Attributes:
    text: Sizes of the text tower.
    vision: Sizes of the vision tower.
    projection_dim: Dimension of the common space, J.
  """

  text: text_clip.CLIPTextConfig
  vision: CLIPVisionConfig
  projection_dim: schema.PositiveInt = 512


class CLIPVisionEncoder(nn.Module):
  """Encoder of an image to the state of its class token."""

  config: CLIPVisionConfig

  @nn.compact
  def __call__(self, pixels: jax.Array) -> jax.Array:
    """Encodes images.

    Args:
      pixels: Normalised float [N, H, W, 3], H = W = `config.image_size`.

    Returns:
      float32 [N, M].

    Raises:
      ValueError: the images have another size.
    """
    c = self.config
    size = (c.image_size, c.image_size, 3)
    if pixels.shape[1:] != size:
      raise ValueError(
        f'images have shape {pixels.shape[1:]}; this CLIP requires {size}'
      )
    x = nn.Conv(
      c.width,
      [c.patch_size] * 2,
      strides=c.patch_size,
      padding='VALID',
      use_bias=False,
      dtype=jnp.dtype(c.dtype),
      name='patches',
    )(pixels)
    x = x.reshape(len(x), c.patches, c.width).astype(jnp.float32)
    token = self.param('class_token', nn.initializers.normal(), (c.width,))
    token = jnp.broadcast_to(token, (len(x), 1, c.width))
    x = jnp.concatenate([token, x], axis=1)
    positions = nn.Embed(c.patches + 1, c.width, name='positions')
    x = x + positions(jnp.arange(c.patches + 1))
    norm = lambda name: layers.LayerNorm(epsilon=c.norm_eps, name=name)
    x = norm('first_norm')(x.astype(jnp.float32))
    x, _ = text_clip.stack(c)(c, is_causal=False, name='layers')(x, None)
    return norm('final_norm')(x[:, 0])


class CLIP(nn.Module):
  """Both towers, for `apply(..., method='images')` and `'texts'`."""

  config: CLIPConfig

  def setup(self) -> None:
    c = self.config
    self.vision = CLIPVisionEncoder(c.vision)
    self.text = text_clip.CLIPTextEncoder(c.text)
    self.vision_projection = nn.Dense(c.projection_dim, use_bias=False)
    self.text_projection = nn.Dense(c.projection_dim, use_bias=False)

  def __call__(
    self, pixels: jax.Array, ids: jax.Array, ends: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Encodes both; initialisation creates all parameters."""
    return self.images(pixels), self.texts(ids, ends)

  def images(self, pixels: jax.Array) -> jax.Array:
    """Returns unit vectors of images.

    Args:
      pixels: Normalised float [N, H, W, 3].

    Returns:
      float32 [N, J].
    """
    return _unit(self.vision_projection(self.vision(pixels)))

  def texts(self, ids: jax.Array, ends: jax.Array) -> jax.Array:
    """Returns unit vectors of texts.

    Args:
      ids: Padded token ids, int32 [N, L].
      ends: Index of each text's end token, int32 [N]; its state depends on the
        complete text.

    Returns:
      float32 [N, J].
    """
    states = self.text(ids)
    state = jnp.take_along_axis(states, ends[:, None, None], axis=1)[:, 0]
    return _unit(self.text_projection(state))


def _unit(x: jax.Array) -> jax.Array:
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def init_params(config: CLIPConfig, key: jax.Array) -> Any:
  """Returns fresh parameters, a nested dict."""
  size = config.vision.image_size
  return CLIP(config).init(
    key,
    pixels=jnp.zeros((1, size, size, 3)),
    ids=jnp.zeros((1, 2), jnp.int32),
    ends=jnp.zeros(1, jnp.int32),
  )['params']


abstract_params = functools.partial(layers.abstract_params, init_params)
