"""Sizes and choices of the diffusion transformer."""

from __future__ import annotations

import dataclasses

from ttt_jax import token_order
from ttt_jax.models.dit import mixers
from ttt_jax.models.dit import positions as positions_lib

REMAT_POLICIES = ('none', 'layer', 'offload')


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
    positions: of attention, one of `positions.KINDS`: 'rope' (5B) or 'sincos'
      (2B).
    base_rows: token rows of a frame in pre-training. With 'rope' frames of
      another size take its positions, see `positions.of_windows`; 0 counts
      rows from 0 whatever their number.
    base_columns: token columns of a frame in pre-training, 0 with base_rows.
    spatial_scale: of 'sincos', see `positions.table`.
    temporal_scale: the same in time.
    max_text_length: tokens of a text in pre-training; the model takes any
      number and only an export tells it.
    dtype: compute type, 'float32' or 'bfloat16'. Parameters are float32.
    remat: 'none'; 'layer': keep only the blocks' inputs for the backward
      pass; 'offload': keep them in the host's memory.
    implementation: of the mixer's kernel; None takes the backend's best.
    attention: implementation of softmax attention, 'xla' or 'splash'; None
      takes the backend's best.
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
  positions: str = 'rope'
  base_rows: int = 0
  base_columns: int = 0
  spatial_scale: float = 1.875
  temporal_scale: float = 1.0
  max_text_length: int = 226
  dtype: str = 'float32'
  remat: str = 'none'
  implementation: str | None = None
  attention: str | None = None

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
      ('positions', positions_lib.KINDS),
      ('dtype', ('float32', 'bfloat16', 'float64')),
    ):
      if getattr(self, name) not in legal:
        raise ValueError(
          f'model.{name} is {getattr(self, name)!r}; legal are'
          f' {", ".join(legal)}'
        )

    if min(self.base_rows, self.base_columns) < 0 or (
      bool(self.base_rows) != bool(self.base_columns)
    ):
      raise ValueError(
        f'model.base_rows is {self.base_rows} and model.base_columns'
        f' {self.base_columns}; set both, for example 30 and 45, or neither'
      )

  @property
  def base(self) -> tuple[int, int] | None:
    """(rows, columns) of a frame in pre-training, None for any."""
    return (self.base_rows, self.base_columns) if self.base_rows else None

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
