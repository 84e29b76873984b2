"""Sizes and options of the inflated U-Net."""

from __future__ import annotations

import dataclasses

from ttt_jax.models import layers
from ttt_jax.models import softmax
from ttt_jax.runtime import schema

DTYPES = ('float32', 'bfloat16')
PREDICTIONS = ('epsilon', 'v_prediction')
REMAT_POLICIES = ('none', 'layer')


@dataclasses.dataclass(frozen=True)
class UNet3DConfig:
  """Sizes and options of a `UNet3D`; defaults are Stable Diffusion 1's.

  Levels count from the finest; decoder levels mirror encoder levels.

  Attributes:
    in_channels: Latent channels, c.
    out_channels: Channels of the output.
    block_out_channels: Features of each level.
    layers_per_block: Residual blocks per encoder level; decoder levels have one
      more.
    cross_attention: Whether each level has transformers.
    num_heads: Heads of each level, H; divides its features.
    text_dim: Width of the text encoder's states, Dt.
    norm_num_groups: Channel groups of every group norm.
    norm_eps: Epsilon of the group norms outside transformers, which have 1e-6.
    use_linear_projection: Transformers begin and end with dense layers (SD 2)
      instead of 1 x 1 convolutions (SD 1). The function is the same; the shapes
      of the weights differ.
    upcast_attention: Recorded for exports. Attention logits and softmax are
      always float32 here.
    sample_size: Latent rows and columns in pre-training; None if unknown.
    prediction: Output of the network, 'epsilon' (the noise) or 'v_prediction'.
    temporal: Attention over frames. Without it, and with one frame, the network
      is the 2-D model.
    reference_bias: Initialises the output bias of temporal attention randomly,
      as the reference does. It sets only the weight to zero, so that its fresh
      inflation is not the 2-D model. For comparisons.
    dtype: Compute type. Parameters, norms and softmax are float32.
    remat: Activations that are kept for the backward pass: 'none' keeps all of
      them, 'layer' keeps the inputs of residual blocks and transformers.
    attention: Implementation of spatial attention, 'xla' or 'splash'. None
      takes splash on TPUs, which keeps no scores in memory.
    attention_frames: Frames whose spatial attention scores XLA's implementation
      keeps in memory at once; None is all frames. One frame of 512 x 512 pixels
      has 8 x 4096 x 8192 scores at the finest level, 1 GiB.
  """

  in_channels: schema.PositiveInt = 4
  out_channels: schema.PositiveInt = 4
  block_out_channels: schema.Levels = (320, 640, 1280, 1280)
  layers_per_block: schema.Depth = 2
  cross_attention: tuple[bool, ...] = (True, True, True, False)
  num_heads: schema.Levels = (8, 8, 8, 8)
  text_dim: schema.PositiveInt = 768
  norm_num_groups: schema.PositiveInt = 32
  norm_eps: schema.Epsilon = 1e-5
  use_linear_projection: bool = False
  upcast_attention: bool = False
  sample_size: schema.PositiveInt | schema.Levels | None = 64
  prediction: str = 'epsilon'
  temporal: bool = True
  reference_bias: bool = False
  dtype: str = 'float32'
  remat: str = 'none'
  attention: str | None = None
  attention_frames: schema.PositiveInt | None = None

  def __post_init__(self):
    schema.check_fields(self, 'UNet3DConfig')
    layers.check_choices(
      'UNet3DConfig',
      self,
      prediction=PREDICTIONS,
      dtype=DTYPES,
      remat=REMAT_POLICIES,
      attention=(None, *softmax.IMPLEMENTATIONS),
    )
    levels = len(self.block_out_channels)
    for name in ('cross_attention', 'num_heads'):
      if len(getattr(self, name)) != levels:
        raise ValueError(
          f'{name} {getattr(self, name)} does not have one value for each of'
          f' the {levels} levels of block_out_channels'
          f' {self.block_out_channels}'
        )
    layers.check_groups(self.block_out_channels, self.norm_num_groups)
    for channels, heads in zip(self.block_out_channels, self.num_heads):
      if channels % heads:
        raise ValueError(
          f'block_out_channels {channels} is not a multiple of its'
          f' {heads} heads (e.g. 8)'
        )

  @property
  def levels(self) -> int:
    return len(self.block_out_channels)

  def check_inputs(
    self,
    latents: tuple[int, ...],
    text: tuple[int, ...],
  ) -> None:
    """Raises ValueError for shapes that the network does not support.

    Args:
      latents: Shape [B, F, h, w, c] of the latents.
      text: Shape [B, ..., Dt] of the text.
    """
    if len(latents) != 5 or latents[-1] != self.in_channels:
      raise ValueError(
        f'latents have shape {latents}; they must be [B, F, h, w,'
        f' {self.in_channels}]'
      )
    if len(text) < 3 or text[0] != latents[0] or text[-1] != self.text_dim:
      raise ValueError(
        f'text has shape {text}; it must be [{latents[0]}, L, {self.text_dim}]'
      )
    multiple = 2 ** (self.levels - 1)
    if latents[2] % multiple or latents[3] % multiple:
      raise ValueError(
        f'latents are {latents[2]} x {latents[3]}; both must be multiples of'
        f' {multiple}'
      )
