"""Floating-point operations of a network, counted from its sizes.

The count includes matrix products and convolutions, with two operations per
multiply-add. It excludes norms, softmax and other pointwise operations, and the
overhead of an implementation, such as padding and recomputation in the backward
pass. Divided by the time of a step and the peak of a chip, it gives the model
FLOPs utilisation (MFU, Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
"""

from __future__ import annotations

from collections.abc import Set
import dataclasses
import functools
import math
import re
from typing import Any

from flax import traverse_util

from ttt_jax.models.dit import config as dit_config
from ttt_jax.models.dit import mixers
from ttt_jax.models.dit import model as dit_model
from ttt_jax.models.unet3d import config as unet_config


@dataclasses.dataclass(frozen=True)
class Product:
  """Products of one kind in the forward pass of one clip.

  Attributes:
    part: Part of the network in tables.
    flops: Number of operations.
    weight: Path of the parameter that is one factor; None if neither factor is
      a parameter.
  """

  part: str
  flops: float
  weight: str | None = None


def tokens(config: Any, latents: tuple[int, ...], text: tuple[int, ...]) -> int:
  """Returns a clip's tokens; for a U-Net, latent pixels at the finest level.

  Args:
    config: Config as for `forward_flops`.
    latents: Shape [F, h, w, c] of a clip.
    text: Shape [S, L, Dt] of its text.
  """
  if isinstance(config, unet_config.UNet3DConfig):
    return math.prod(latents[:3])
  return config.order((1, *latents), (1, *text)).length


def forward_flops(
  config: Any, latents: tuple[int, ...], text: tuple[int, ...]
) -> dict[str, float]:
  """Returns the operations of one clip's forward pass by part of the network.

  Args:
    config: `DiTConfig` or `UNet3DConfig`.
    latents: Shape [F, h, w, c] of a clip.
    text: Shape [S, L, Dt] of its text.
  """
  return _total((p.part, p.flops) for p in products(config, latents, text))


def training_flops(
  config: Any,
  latents: tuple[int, ...],
  text: tuple[int, ...],
  trainable: Set[str] | None = None,
) -> dict[str, float]:
  """Returns the operations of one clip's forward and backward pass by part.

  In the backward pass every product becomes two, one for the gradient of each
  factor. A frozen weight needs no gradient.

  Args:
    config: `DiTConfig` or `UNet3DConfig`.
    latents: Shape [F, h, w, c] of a clip.
    text: Shape [S, L, Dt] of its text.
    trainable: Paths of the trainable parameters; None is all parameters.
  """

  def passes(weight):
    frozen = trainable is not None and weight and weight not in trainable
    return 2 if frozen else 3

  return _total(
    (p.part, passes(p.weight) * p.flops)
    for p in products(config, latents, text)
  )


def _total(parts):
  out = {}
  for part, flops in parts:
    out[part] = out.get(part, 0.0) + flops
  return out


def products(
  config: Any, latents: tuple[int, ...], text: tuple[int, ...]
) -> list[Product]:
  """Returns a clip's products; arguments as for `forward_flops`."""
  if isinstance(config, unet_config.UNet3DConfig):
    return _unet(config, latents, text)
  return _transformer(config, latents, text)


def _dense(part, path, rows, inputs, outputs):
  """Returns the product of `rows` rows with a kernel [inputs, outputs]."""
  return Product(part, 2.0 * rows * inputs * outputs, f'{path}/kernel')


def _transformer(c: dit_config.DiTConfig, latents, text):
  order = c.order((1, *latents), (1, *text))
  t, m, n, e = order.length, c.model_dim, c.num_layers, c.time_embed_dim
  pixels = order.latent_frames * order.tokens_per_frame
  texts = order.segments * order.text_length
  patch = c.patch_size**2
  dense = functools.partial(_dense, 'embeddings')
  found = [
    dense('time_1', 1, m, e),
    dense('time_2', 1, e, e),
    dense('text', texts, c.text_dim, m),
    dense('patch', pixels, patch * c.in_channels, m),
    dense('final_modulation', 1, e, 2 * m),
    dense('final', pixels, m, patch * c.out_channels),
  ]
  dense = lambda part, path, *sizes: found.append(
    _dense(part, f'layers/{path}', n * sizes[0], *sizes[1:])
  )
  dense('embeddings', 'seq_modulation/dense', 1, e, 6 * m)
  dense('embeddings', 'mlp_modulation/dense', 1, e, 6 * m)
  dense('mlp', 'mlp/up', t, m, 4 * m)
  dense('mlp', 'mlp/down', t, 4 * m, m)
  for name in 'qkvo':
    dense('attention projections', f'seq/attn/{name}', t, m, m)
  scores = 2 * 2.0 * order.segments * order.window**2 * m
  found.append(Product('attention', n * scores))
  mixer = mixers.MIXERS[c.mixer]
  # It scans the sequence twice, forwards and in reverse.
  params: Any = dit_model.abstract_params(c)
  shapes: Any = traverse_util.flatten_dict(params, sep='/')
  for path, leaf in shapes.items():
    if re.fullmatch(rf'layers/seq/{mixer.scope}/.*/kernel', path):
      flops = 2 * 2.0 * t * math.prod(leaf.shape)
      found.append(Product('mixer projections', flops, path))
  if scan := 2 * n * mixer.scan_flops(c, order):
    found.append(Product('mixer scan', scan))
  return found


def _unet(c: unet_config.UNet3DConfig, latents, text):
  f, h, w = latents[:3]
  texts = math.prod(text[:-1])
  found = []
  time = 4 * c.block_out_channels[0]

  def dense(path, rows, inputs, outputs, part='dense'):
    found.append(_dense(part, path, rows, inputs, outputs))

  def conv(path, pixels, inputs, outputs, size=9):
    dense(path, f * pixels, size * inputs, outputs, 'convolutions')

  def block(name, pixels, inputs, outputs):
    conv(f'{name}/conv1', pixels, inputs, outputs)
    conv(f'{name}/conv2', pixels, outputs, outputs)
    dense(f'{name}/time', 1, time, outputs)
    if inputs != outputs:
      conv(f'{name}/conv_shortcut', pixels, inputs, outputs, 1)

  def transformer(name, pixels, m):
    rows = f * pixels

    def attention(path, read, width, pairs):
      path = f'{name}/block/{path}'
      dense(f'{path}/to_q', rows, m, m)
      dense(f'{path}/to_k', read, width, m)
      dense(f'{path}/to_v', read, width, m)
      dense(f'{path}/to_out', rows, m, m)
      found.append(Product('attention', 2 * 2.0 * pairs * m))

    dense(f'{name}/proj_in', rows, m, m)
    attention('attn1', rows, m, rows * pixels * min(f, 2))
    attention('attn2', texts, c.text_dim, rows * texts)
    dense(f'{name}/block/ff/up', rows, m, 8 * m)
    dense(f'{name}/block/ff/down', rows, 4 * m, m)
    if c.temporal:
      attention('attn_temp', rows, m, rows * f)
    dense(f'{name}/proj_out', rows, m, m)

  first, last = c.block_out_channels[0], c.levels - 1
  pixels = [(h >> level) * (w >> level) for level in range(c.levels)]
  dense('time_1', 1, first, time)
  dense('time_2', 1, time, time)
  conv('conv_in', pixels[0], c.in_channels, first)
  features, skips = first, [first]
  for level, outputs in enumerate(c.block_out_channels):
    name = f'down_blocks_{level}'
    for i in range(c.layers_per_block):
      block(f'{name}_resnets_{i}', pixels[level], features, outputs)
      if c.cross_attention[level]:
        transformer(f'{name}_attentions_{i}', pixels[level], outputs)
      features = outputs
      skips.append(outputs)
    if level < last:
      conv(f'{name}_downsamplers_0/conv', pixels[level + 1], outputs, outputs)
      skips.append(outputs)
  block('mid_block_resnets_0', pixels[last], features, features)
  transformer('mid_block_attentions_0', pixels[last], features)
  block('mid_block_resnets_1', pixels[last], features, features)
  for level in reversed(range(c.levels)):
    name, outputs = f'up_blocks_{last - level}', c.block_out_channels[level]
    for i in range(c.layers_per_block + 1):
      inputs = features + skips.pop()
      block(f'{name}_resnets_{i}', pixels[level], inputs, outputs)
      if c.cross_attention[level]:
        transformer(f'{name}_attentions_{i}', pixels[level], outputs)
      features = outputs
    if level:
      conv(f'{name}_upsamplers_0/conv', pixels[level - 1], outputs, outputs)
  conv('conv_out', pixels[0], features, c.out_channels)
  return found
