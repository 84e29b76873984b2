"""Sizes and choices of the inflated U-Net."""

from __future__ import annotations

import dataclasses

from ttt_jax.models import softmax

DTYPES = ('float32', 'bfloat16')
PREDICTIONS = ('epsilon', 'v_prediction')
REMAT_POLICIES = ('none', 'layer')


@dataclasses.dataclass(frozen=True)
class UNet3DConfig:
  """Sizes and choices of a `UNet3D`; the defaults are Stable Diffusion 1's.

  Levels count from the finest; the way up mirrors the way down.

  Attributes:
    in_channels: latent channels, c.
    out_channels: channels of the output.
    block_out_channels: features of each level.
    layers_per_block: residual blocks of a level on the way down; one more on
      the way up.
    cross_attention: which levels have transformers.
    num_heads: H of each level; its features are a multiple.
    text_dim: width of the text encoder's states, Dt.
    norm_num_groups: of every group norm.
    norm_eps: of the group norms, but for those of the transformers (1e-6).
    use_linear_projection: transformers begin and end with dense layers (SD
      2) instead of convolutions of one pixel (SD 1). The function is the
      same, the shapes of the weights are not.
    upcast_attention: kept for exports. Attention logits and softmax are
      float32 here whatever it says.
    sample_size: latent rows and columns in pre-training, None if unknown.
    prediction: what the output is: 'epsilon', the noise, or 'v_prediction'.
    temporal: attention over frames. Without it and with one frame this is
      the 2-D model.
    reference_bias: a fresh temporal attention has the random output bias of
      the reference, which zeroes the weight alone: its fresh inflation is not
      the 2-D model. For comparisons.
    dtype: compute type. Parameters, norms and softmax are float32.
    remat: 'none', or 'layer': keep only the inputs of residual blocks and
      transformers for the backward pass.
    attention: implementation of spatial attention, 'xla' or 'splash'; None
      is splash on TPUs, which has no scores in memory.
    attention_frames: frames whose spatial attention scores XLA's has in
      memory at once; None is all of them. One frame of 512 x 512 pixels has
      8 x 4096 x 8192 of them at the finest level, 1 GiB.
  """

  in_channels: int = 4
  out_channels: int = 4
  block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
  layers_per_block: int = 2
  cross_attention: tuple[bool, ...] = (True, True, True, False)
  num_heads: tuple[int, ...] = (8, 8, 8, 8)
  text_dim: int = 768
  norm_num_groups: int = 32
  norm_eps: float = 1e-5
  use_linear_projection: bool = False
  upcast_attention: bool = False
  sample_size: int | None = 64
  prediction: str = 'epsilon'
  temporal: bool = True
  reference_bias: bool = False
  dtype: str = 'float32'
  remat: str = 'none'
  attention: str | None = None
  attention_frames: int | None = None

  def __post_init__(self):
    for name, legal in (
      ('prediction', PREDICTIONS),
      ('dtype', DTYPES),
      ('remat', REMAT_POLICIES),
      ('attention', (None, *softmax.IMPLEMENTATIONS)),
    ):
      if getattr(self, name) not in legal:
        raise ValueError(
          f'{name} of the U-Net is {getattr(self, name)!r}; legal are'
          f' {", ".join(map(str, legal))}'
        )
    levels = len(self.block_out_channels)
    for name in ('cross_attention', 'num_heads'):
      if len(getattr(self, name)) != levels:
        raise ValueError(
          f'{name} {getattr(self, name)} does not have one value for each of'
          f' the {levels} levels of block_out_channels'
          f' {self.block_out_channels}'
        )
    for channels, heads in zip(self.block_out_channels, self.num_heads):
      if channels % self.norm_num_groups:
        raise ValueError(
          f'block_out_channels {channels} is not a multiple of'
          f' norm_num_groups {self.norm_num_groups}'
        )
      if heads < 1 or channels % heads:
        raise ValueError(
          f'block_out_channels {channels} is not a multiple of its'
          f' {heads} heads (e.g. 8)'
        )
    if self.attention_frames is not None and self.attention_frames < 1:
      raise ValueError(
        f'attention_frames {self.attention_frames} must be 1 or more, or'
        ' None for all frames'
      )

  @property
  def levels(self) -> int:
    return len(self.block_out_channels)

  def check_inputs(
    self,
    latents: tuple[int, ...],
    text: tuple[int, ...],
  ) -> None:
    """Raises ValueError for shapes that this model cannot take.

    Args:
      latents: shape of [B, F, h, w, c].
      text: shape of [B, ..., Dt].
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
