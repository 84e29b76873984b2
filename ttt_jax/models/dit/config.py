"""Sizes and options of the diffusion transformer."""

from __future__ import annotations

import dataclasses
import math

from ttt_jax import token_order
from ttt_jax.models import layers
from ttt_jax.models import softmax
from ttt_jax.models.dit import mixers
from ttt_jax.models.dit import positions as positions_lib
from ttt_jax.runtime import schema

# Outputs of the network, see `diffusion.schedule`.
PREDICTIONS = ('v_prediction', 'sample')
# Fields that runs and exports of earlier versions lack, and their values then.
ADDED_FIELDS = {'window_size': 8192, 'chunk_frames': 3}
REMAT_POLICIES = (
  'none',
  'products',
  'attention',
  'offload_attention',
  'layer',
  'offload',
)


@dataclasses.dataclass(frozen=True)
class DiTConfig:
  """Sizes and options of a `DiffusionTransformer`; defaults are the 5B model.

  Attributes:
    model_dim: Model dim, M; a multiple of 16 * `num_heads`.
    num_heads: Number of heads, H.
    num_layers: Number of blocks.
    time_embed_dim: Width of the time embedding, E.
    text_dim: Width of the text encoder's states, Dt.
    in_channels: Latent channels, c.
    out_channels: Channels of the output, the same as of the latents.
    patch_size: Latent cells per token and side.
    segment_latent_frames: Latent frames per segment, n.
    mixer: Name of the mixer, one of `mixers.MIXERS`.
    mixer_preset: Sizes of the mixer, one of its `presets`: 'matched' gives each
      about the parameters of the TTT layers, 'state' has its published widths.
    mini_batch: Tokens that share one inner step, C. Weights that were trained
      with one value do not work with another.
    ttt_base_lr: Inner step size before the learned factor; 0.1 for ttt_mlp and
      1.0 for ttt_linear in the paper's code.
    window_size: Tokens that a token attends to with the mixer
      'sliding_window', its own and those scanned before.
    chunk_frames: Latent frames per update with the mixer 'large_chunk_ttt';
      their tokens are rounded to whole tiles of 128 from 1024 on.
    gate_init: Initial value of the mixer's gates before their tanh.
    norm_eps: Epsilon of the LayerNorms on tokens.
    qk_norm_eps: Epsilon of the LayerNorms on queries and keys.
    rope_theta: Base of the rotary frequencies.
    positions: Position embedding of attention, one of `positions.KINDS`: 'rope'
      (5B) or 'sincos' (2B).
    base_rows: Token rows of a frame in pre-training. With 'rope', frames of
      another size take the positions of this one, see
      `positions.window_positions`; 0 counts rows from 0 for any size.
    base_columns: Token columns of a frame in pre-training; 0 if `base_rows` is
      0.
    spatial_scale: Rows and columns per unit of position with 'sincos', see
      `positions.table`.
    temporal_scale: Frames per unit of position with 'sincos'.
    prediction: Output of the network, 'v_prediction' or 'sample' (the clean
      latents). CogVideoX predicts v, which contains noise that has to pass
      through the network's width.
    input_skip: Adds the noisy latents to the output, each channel times a
      learned function of the timestep that starts at 0. Where the latents show
      details through little noise, a network that predicts x0 then needs not
      to pass them on (after the preconditioning of Karras et al., 2022). False
      in CogVideoX.
    max_text_length: Text tokens per segment in pre-training. The model takes
      any number; only an export records this one.
    dtype: Compute type, 'float32', 'bfloat16' or 'float64'. Parameters are
      float32.
    remat: Activations that are kept for the backward pass: 'none' keeps all of
      them, 'products' keeps the results of matrix products, of attention and
      of the portable inner loop, 'layer' keeps the blocks' inputs, 'attention'
      also the results of the kernels of attention within windows. 'offload'
      and 'offload_attention' keep the same as 'layer' and 'attention' in host
      memory.
    implementation: Implementation of the mixer's kernel; None takes the
      backend's best.
    attention: Implementation of attention within windows, 'pallas_tpu' (heads
      of 64 features), 'splash' or 'xla'; None
      takes the backend's best.
  """

  model_dim: schema.PositiveInt = 3072
  num_heads: schema.PositiveInt = 48
  num_layers: schema.Depth = 42
  time_embed_dim: schema.PositiveInt = 512
  text_dim: schema.PositiveInt = 4096
  in_channels: schema.PositiveInt = 16
  out_channels: schema.PositiveInt = 16
  patch_size: schema.PositiveInt = 2
  segment_latent_frames: schema.PositiveInt = 12
  mixer: str = 'ttt_mlp'
  mixer_preset: str = 'matched'
  mini_batch: schema.PositiveInt = 64
  ttt_base_lr: schema.NonNegativeFloat = 0.1
  window_size: schema.PositiveInt = 8192
  chunk_frames: schema.PositiveInt = 3
  gate_init: schema.FiniteFloat = 0.1
  norm_eps: schema.Epsilon = 1e-5
  qk_norm_eps: schema.Epsilon = 1e-6
  rope_theta: schema.PositiveFloat = 10_000.0
  positions: str = 'rope'
  base_rows: schema.NonNegativeInt = 0
  base_columns: schema.NonNegativeInt = 0
  spatial_scale: schema.PositiveFloat = 1.875
  temporal_scale: schema.PositiveFloat = 1.0
  max_text_length: schema.PositiveInt = 226
  prediction: str = 'v_prediction'
  input_skip: bool = False
  dtype: str = 'float32'
  remat: str = 'none'
  implementation: str | None = None
  attention: str | None = None

  def __post_init__(self):
    schema.check_fields(self, 'model')
    if self.model_dim % (16 * self.num_heads):
      raise ValueError(
        f'model_dim {self.model_dim} over num_heads {self.num_heads} must'
        ' give a head dim that is a multiple of 16, for example'
        f' {max(16, self.model_dim // self.num_heads // 16 * 16)}'
      )
    layers.check_choices(
      'model',
      self,
      mixer=mixers.MIXERS,
      remat=REMAT_POLICIES,
      positions=positions_lib.KINDS,
      prediction=PREDICTIONS,
      dtype=('float32', 'bfloat16', 'float64'),
      attention=(None, *softmax.WINDOW_IMPLEMENTATIONS),
    )
    mixers.MIXERS[self.mixer].check(self)
    if bool(self.base_rows) != bool(self.base_columns):
      raise ValueError(
        f'model.base_rows is {self.base_rows} and model.base_columns'
        f' {self.base_columns}; set both, for example 30 and 45, or neither'
      )

  @property
  def split_heads(self) -> int:
    """Heads that the mesh axis `sp` must divide, in attention and mixer."""
    return math.gcd(self.num_heads, mixers.MIXERS[self.mixer].heads(self))

  @property
  def base(self) -> tuple[int, int] | None:
    """Rows and columns of a frame in pre-training; None if unknown."""
    return (self.base_rows, self.base_columns) if self.base_rows else None

  def order(
    self,
    latents: tuple[int, ...],
    text: tuple[int, ...],
  ) -> token_order.TokenOrder:
    """Returns the token order of a batch.

    Args:
      latents: Shape [B, F, h, w, c] of the latents.
      text: Shape [B, S, L, Dt] of the text.

    Raises:
      ValueError: the shapes do not fit each other or this model.
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
      segments=segments,
      segment_latent_frames=self.segment_latent_frames,
      rows=h // self.patch_size,
      columns=w // self.patch_size,
      text_length=text[2],
    )
