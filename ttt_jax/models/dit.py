"""The diffusion transformer: CogVideoX with a global mixer in every block."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax import token_order
from ttt_jax.models import attention
from ttt_jax.models import embeddings
from ttt_jax.models import layers
from ttt_jax.models import mixers
from ttt_jax.models import ttt

REMAT_POLICIES = ('none', 'layer')


@dataclasses.dataclass(frozen=True)
class DiTConfig:
  """Sizes and choices of a `DiffusionTransformer`; defaults are the 5B model.

  Attributes:
    model_dim: M, a multiple of 16 `num_heads`.
    num_heads: H.
    num_layers: blocks.
    time_embed_dim: width of the time embedding.
    text_dim: width of the text encoder's states, Dt.
    in_channels: latent channels, c.
    out_channels: channels of the output; those of the latents.
    patch_size: latent cells a token, per side.
    segment_latent_frames: latent frames of a segment, n.
    mixer: one of `mixers.MIXERS`.
    mini_batch: C, tokens that share one inner step. Weights trained with one
      value do not work with another.
    ttt_base_lr: inner learning rate before the learned factor: 0.1 for
      ttt_mlp and 1.0 for ttt_linear in the paper's code.
    gate_init: initial alpha of the mixer's gates.
    norm_eps: epsilon of the LayerNorms, but for
    qk_norm_eps: that of the norms on queries and keys.
    rope_theta: base of the rotary frequencies.
    dtype: compute type, 'float32' or 'bfloat16'. Parameters are float32.
    remat: 'none', or 'layer': keep only the blocks' inputs for the backward
      pass.
    implementation: of the mixer's kernel; None takes the backend's best.
  """

  model_dim: int = 3072
  num_heads: int = 48
  num_layers: int = 42
  time_embed_dim: int = 512
  text_dim: int = 4096
  in_channels: int = 16
  out_channels: int = 16
  patch_size: int = 2
  segment_latent_frames: int = 12
  mixer: str = 'ttt_mlp'
  mini_batch: int = 64
  ttt_base_lr: float = 0.1
  gate_init: float = 0.1
  norm_eps: float = 1e-5
  qk_norm_eps: float = 1e-6
  rope_theta: float = 10_000.0
  dtype: str = 'float32'
  remat: str = 'none'
  implementation: str | None = None

  def __post_init__(self):
    if self.model_dim % (16 * self.num_heads):
      raise ValueError(
          f'model_dim {self.model_dim} over num_heads {self.num_heads} must'
          ' give heads of a multiple of 16, for example'
          f' {max(16, self.model_dim // self.num_heads // 16 * 16)} each'
      )
    for name, legal in (
        ('mixer', mixers.MIXERS),
        ('remat', REMAT_POLICIES),
        ('dtype', ('float32', 'bfloat16', 'float64')),
    ):
      if getattr(self, name) not in legal:
        raise ValueError(
            f'model.{name} is {getattr(self, name)!r}; legal are'
            f' {", ".join(legal)}'
        )

  def order(
      self,
      latents: tuple[int, ...],
      text: tuple[int, ...],
  ) -> token_order.TokenOrder:
    """The token order for latents [B, F, h, w, c] and text [B, S, L, Dt].

    Args:
      latents: their shape.
      text: its shape.

    Raises:
      ValueError: shapes that do not fit each other or this model.
    """
    if len(latents) != 5 or latents[-1] != self.in_channels:
      raise ValueError(
          f'latents have shape {latents}; they must be [B, F, h, w,'
          f' {self.in_channels}]'
      )
    if len(text) != 4 or text[-1] != self.text_dim:
      raise ValueError(
          f'text has shape {text}; it must be [B, S, L, {self.text_dim}]'
      )
    segments = text[1]
    frames = segments * self.segment_latent_frames + 1
    if latents[1] != frames:
      raise ValueError(
          f'{latents[1]} latent frames do not fit {segments} segments of text;'
          f' they must be {frames}'
      )
    h, w = latents[2:4]
    if h % self.patch_size or w % self.patch_size:
      raise ValueError(
          f'latents are {h} x {w}; both must be multiples of the patch size'
          f' {self.patch_size}'
      )
    return token_order.TokenOrder(
        segments,
        self.segment_latent_frames,
        h // self.patch_size,
        w // self.patch_size,
        text[2],
    )


class SequenceBlock(nn.Module):
  """Local attention, then the global mixer on its output, [B, T, M]."""

  config: DiTConfig
  order: token_order.TokenOrder

  @nn.compact
  def __call__(self, x: jax.Array, *, diagnose: bool = False):
    config = self.config
    dtype = jnp.dtype(config.dtype)
    x = attention.SegmentAttention(
        config.num_heads,
        config.qk_norm_eps,
        config.rope_theta,
        dtype,
        name='attn',
    )(x, self.order)
    if config.mixer == 'none':
      return x, {}
    layer = ttt.TTTLayer(
        config.mixer,
        config.num_heads,
        config.mini_batch,
        config.ttt_base_lr,
        config.rope_theta,
        dtype,
        config.implementation,
        name='ttt',
    )
    return mixers.BidirectionalTTT(layer, config.gate_init, name='gates')(
        x, self.order, diagnose=diagnose
    )


class Block(nn.Module):
  """One transformer block: a carry for `nn.scan`."""

  config: DiTConfig
  order: token_order.TokenOrder
  diagnose: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, time: jax.Array):
    """[B, T, M], [B, E] -> [B, T, M] and a dict of diagnostics."""
    config = self.config
    dtype = jnp.dtype(config.dtype)
    is_text = jnp.asarray(self.order.is_text)

    def modulated(name):
      shift, scale, gate = layers.ExpertModulation(
          config.model_dim, dtype, name=f'{name}_modulation'
      )(time, is_text)
      y = layers.LayerNorm(epsilon=config.norm_eps, name=f'{name}_norm')(x)
      return (y * (1 + scale) + shift).astype(dtype), gate

    y, gate = modulated('seq')
    y, aux = SequenceBlock(config, self.order, name='seq')(
        y, diagnose=self.diagnose
    )
    x = x + gate * y
    y, gate = modulated('mlp')
    y = layers.FeedForward(config.model_dim, dtype, name='mlp')(y)
    return x + gate * y, aux


class DiffusionTransformer(nn.Module):
  """Predicts v from noisy latents, segment texts and timesteps."""

  config: DiTConfig

  def __call__(
      self, latents: jax.Array, text: jax.Array, timesteps: jax.Array
  ) -> jax.Array:
    """The network's output.

    Args:
      latents: [B, F, h, w, c] with F = n S + 1.
      text: [B, S, L, Dt].
      timesteps: [B], 0 (clean) to 999 (noise).

    Returns:
      float32 [B, F, h, w, c].

    Raises:
      ValueError: shapes that do not fit each other or the config.
    """
    return self._forward(latents, text, timesteps, diagnose=False)[0]

  def diagnostics(
      self, latents: jax.Array, text: jax.Array, timesteps: jax.Array
  ) -> dict[str, jax.Array]:
    """Gate sizes and inner losses per layer, each [num_layers]."""
    return self._forward(latents, text, timesteps, diagnose=True)[1]

  @nn.compact
  def _forward(self, latents, text, timesteps, *, diagnose):
    config = self.config
    order = config.order(latents.shape, text.shape)
    dtype = jnp.dtype(config.dtype)
    dense = lambda size, name: layers.Dense(size, dtype=dtype, name=name)

    time = embeddings.timestep_embedding(timesteps, config.model_dim)
    time = dense(config.time_embed_dim, 'time_1')(time.astype(dtype))
    time = dense(config.time_embed_dim, 'time_2')(nn.silu(time))

    video = embeddings.patchify(latents, config.patch_size).astype(dtype)
    x = embeddings.join(
        dense(config.model_dim, 'patch')(video),
        dense(config.model_dim, 'text')(text.astype(dtype)),
        order,
    )
    block = Block
    if config.remat == 'layer':
      block = nn.remat(block, prevent_cse=False)
    x, aux = nn.scan(
        block,
        variable_axes={'params': 0},
        split_rngs={'params': True},
        in_axes=nn.broadcast,
        length=config.num_layers,
    )(config, order, diagnose, name='layers')(x, time)

    x = embeddings.video_tokens(x, order)
    x = layers.LayerNorm(epsilon=config.norm_eps, name='norm')(x)
    x = layers.LayerNorm(epsilon=config.norm_eps, name='final_norm')(x)
    shift, scale = jnp.split(
        layers.ZeroDense(
            2 * config.model_dim, dtype=dtype, name='final_modulation'
        )(nn.silu(time))[:, None, None],
        2,
        axis=-1,
    )
    x = (x * (1 + scale) + shift).astype(dtype)
    x = layers.ZeroDense(
        config.patch_size**2 * config.out_channels, dtype=dtype, name='final'
    )(x)
    x = embeddings.unpatchify(x, order.rows, order.columns, config.patch_size)
    return x.astype(jnp.promote_types(dtype, jnp.float32)), aux


def init_params(config: DiTConfig, key: jax.Array) -> Any:
  """Fresh parameters, nested dict; they do not depend on a video's size."""
  frames, size = config.segment_latent_frames + 1, config.patch_size
  return DiffusionTransformer(config).init(
      key,
      jnp.zeros((1, frames, size, size, config.in_channels)),
      jnp.zeros((1, 1, 1, config.text_dim)),
      jnp.zeros(1),
  )['params']


def abstract_params(config: DiTConfig) -> Any:
  """Their shapes as `jax.ShapeDtypeStruct`; nothing is computed."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(functools.partial(init_params, config), key)
