"""The `config.json` of diffusers' 2-D U-Net, to and from ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttt_jax.convert import stable_diffusion as sd
from ttt_jax.models.unet3d.config import UNet3DConfig

# Ours: diffusers leaves unknown fields alone.
PREDICTION = 'prediction_type'

CLASS = 'UNet2DConditionModel'
_DOWN = {True: 'CrossAttnDownBlock2D', False: 'DownBlock2D'}
_UP = {True: 'CrossAttnUpBlock2D', False: 'UpBlock2D'}
# Name in config.json, and of ours.
_FIELDS = {
  'in_channels': 'in_channels',
  'out_channels': 'out_channels',
  'layers_per_block': 'layers_per_block',
  'cross_attention_dim': 'text_dim',
  'norm_num_groups': 'norm_num_groups',
}
# With the values of files that are older than these.
_OPTIONS = dict(
  norm_eps=1e-5,
  sample_size=None,
  upcast_attention=False,
  use_linear_projection=False,
)
# What only one value of is supported: anything else changes the function.
_FIXED = {
  'act_fn': 'silu',
  'addition_embed_type': None,
  'attention_type': 'default',
  'center_input_sample': False,
  'class_embed_type': None,
  'conv_in_kernel': 3,
  'conv_out_kernel': 3,
  'cross_attention_norm': None,
  'downsample_padding': 1,
  'dropout': 0.0,
  'dual_cross_attention': False,
  'encoder_hid_dim': None,
  'encoder_hid_dim_type': None,
  'flip_sin_to_cos': True,
  'freq_shift': 0,
  'mid_block_only_cross_attention': None,
  'mid_block_scale_factor': 1,
  'mid_block_type': 'UNetMidBlock2DCrossAttn',
  'num_attention_heads': None,
  'num_class_embeds': None,
  'only_cross_attention': False,
  'resnet_out_scale_factor': 1.0,
  'resnet_skip_time_act': False,
  'resnet_time_scale_shift': 'default',
  'reverse_transformer_layers_per_block': None,
  'time_cond_proj_dim': None,
  'time_embedding_act_fn': None,
  'time_embedding_dim': None,
  'time_embedding_type': 'positional',
  'timestep_post_act': None,
  'transformer_layers_per_block': 1,
}


def config_from_json(
  found: Mapping[str, Any], what: str, **choices: Any
) -> UNet3DConfig:
  """The config that a `config.json` holds.

  Args:
    found: its content.
    what: its name, for messages.
    **choices: fields of ours that it does not have.

  Raises:
    ValueError: another class, a model that we do not support, or sizes that
      cannot be.
  """
  sd.check_class(found, CLASS, what)
  if found.get('addition_embed_type') == 'text_time':
    raise ValueError(f'{what} is Stable Diffusion XL: {sd.SUPPORTED}')
  sd.check_fixed(found, _FIXED, what)
  # A number of heads in spite of its name; one for all levels (SD 1) or one
  # for each (SD 2).
  heads = found.get('attention_head_dim')
  names, lists = [*_FIELDS], ['block_out_channels']
  (lists if isinstance(heads, list) else names).append('attention_head_dim')
  sd.check_sizes(found, names, what, lists)
  channels = found['block_out_channels']
  down, up = found.get('down_block_types'), found.get('up_block_types')
  crossing = [name == _DOWN[True] for name in down or ()]
  wanted = [_DOWN[c] for c in crossing], [_UP[c] for c in reversed(crossing)]
  if (down, up) != wanted or len(crossing) != len(channels):
    raise ValueError(
      f'{what} has down_block_types {down} and up_block_types {up}: they must'
      f' be {len(channels)} of {", ".join(_DOWN.values())}, and the same with'
      ' Up in reverse order'
    )
  if isinstance(heads, int):
    heads = [heads] * len(channels)
  options = {name: found.get(name, value) for name, value in _OPTIONS.items()}
  try:
    return UNet3DConfig(
      **{ours: found[theirs] for theirs, ours in _FIELDS.items()},
      **options,
      block_out_channels=tuple(channels),
      cross_attention=tuple(crossing),
      num_heads=tuple(heads),
      **choices,
    )
  except ValueError as e:
    raise ValueError(f'{what}: {e}') from e


def config_to_json(config: UNet3DConfig) -> dict[str, Any]:
  """The content of `config.json`."""
  heads = config.num_heads
  return {
    '_class_name': CLASS,
    **_FIXED,
    **{key: getattr(config, name) for key, name in _FIELDS.items()},
    **{name: getattr(config, name) for name in _OPTIONS},
    'attention_head_dim': heads[0] if len(set(heads)) == 1 else list(heads),
    'block_out_channels': list(config.block_out_channels),
    'down_block_types': [_DOWN[c] for c in config.cross_attention],
    'up_block_types': [_UP[c] for c in reversed(config.cross_attention)],
    PREDICTION: config.prediction,
  }
