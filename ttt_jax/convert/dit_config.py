"""The `config.json` of diffusers' CogVideoX transformer, to and from ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttt_jax.models import dit

_CLASS = 'CogVideoXTransformer3DModel'
_SUPPORTED = 'CogVideoX-2B and CogVideoX-5B, text to video, are supported'

# Name in config.json -> (field of ours, diffusers' default).
_FIELDS = {
  'num_attention_heads': ('num_heads', 30),
  'num_layers': ('num_layers', 30),
  'time_embed_dim': ('time_embed_dim', 512),
  'text_embed_dim': ('text_dim', 4096),
  'in_channels': ('in_channels', 16),
  'out_channels': ('out_channels', 16),
  'patch_size': ('patch_size', 2),
  'norm_eps': ('norm_eps', 1e-5),
  'max_text_seq_length': ('max_text_length', 226),
  'spatial_interpolation_scale': ('spatial_scale', 1.875),
  'temporal_interpolation_scale': ('temporal_scale', 1.0),
}
# What says something else of ours, with diffusers' defaults.
_SIZES = dict(
  attention_head_dim=64, sample_frames=49, sample_height=60, sample_width=90
)
# What only one value of is supported: anything else changes the function.
_FIXED = {
  'activation_fn': 'gelu-approximate',
  'timestep_activation_fn': 'silu',
  'attention_bias': True,
  'dropout': 0.0,
  'flip_sin_to_cos': True,
  'freq_shift': 0,
  'norm_elementwise_affine': True,
  'ofs_embed_dim': None,
  'patch_bias': True,
  'patch_size_t': None,
  'temporal_compression_ratio': 4,
  'use_learned_positional_embeddings': False,
}


def config_from_json(found: Mapping[str, Any], what: str) -> dit.DiTConfig:
  """The config, without TTT layers, that a `config.json` holds.

  Raises:
    ValueError: another class, a model that we do not support, or sizes that
      cannot be.
  """
  name = found.get('_class_name', _CLASS)
  if name != _CLASS:
    raise ValueError(
      f'{what} describes a {name}: only {_CLASS} can be loaded; {_SUPPORTED}'
    )
  if found.get('patch_size_t') is not None:
    raise ValueError(
      f'{what} is CogVideoX 1.5 (patch_size_t = {found["patch_size_t"]}):'
      f' not supported yet; {_SUPPORTED}'
    )
  _check_numbers(found, what)
  fields = {
    ours: found.get(theirs, default)
    for theirs, (ours, default) in _FIELDS.items()
  }
  if fields['in_channels'] != fields['out_channels'] or found.get(
    'use_learned_positional_embeddings', False
  ):
    raise ValueError(
      f'{what} is an image-to-video model (in_channels ='
      f' {fields["in_channels"]}, out_channels = {fields["out_channels"]},'
      ' use_learned_positional_embeddings ='
      f' {found.get("use_learned_positional_embeddings", False)}): not'
      f' supported yet; {_SUPPORTED}'
    )
  for key, value in _FIXED.items():
    if found.get(key, value) != value:
      raise ValueError(
        f'{what} has {key} = {found[key]!r}: only {value!r} is supported'
      )
  sizes = {key: found.get(key, size) for key, size in _SIZES.items()}
  frames = sizes['sample_frames']
  if frames % 4 != 1 or frames < 5:
    raise ValueError(
      f'{what}: sample_frames is {frames}; it must be 4 n + 1, for example 49'
    )
  is_rotary = found.get('use_rotary_positional_embeddings', False)
  try:
    return dit.DiTConfig(
      **fields,
      model_dim=sizes['attention_head_dim'] * fields['num_heads'],
      segment_latent_frames=(frames - 1) // 4,
      mixer='none',
      positions='rope' if is_rotary else 'sincos',
      base_rows=sizes['sample_height'] // fields['patch_size'],
      base_columns=sizes['sample_width'] // fields['patch_size'],
    )
  except ValueError as e:
    raise ValueError(f'{what}: {e}') from e


def _check_numbers(found, what):
  """Raises ValueError for a size that is none."""
  defaults = {key: default for key, (_, default) in _FIELDS.items()} | _SIZES
  for key, default in defaults.items():
    value = found.get(key, default)
    kind = (int, float) if isinstance(default, float) else int
    if isinstance(value, bool) or not isinstance(value, kind) or value <= 0:
      legal = 'a number' if isinstance(default, float) else 'a whole number'
      raise ValueError(
        f'{what}: {key} is {value!r}; it must be {legal} above 0, for example'
        f' {default}'
      )


def config_to_json(config: dit.DiTConfig) -> dict[str, Any]:
  """The content of `config.json`; what it cannot say is an error.

  Raises:
    ValueError: fields whose value diffusers' model does not have.
  """
  default = dit.DiTConfig()
  for name in ('qk_norm_eps', 'rope_theta'):
    if getattr(config, name) != getattr(default, name):
      raise ValueError(
        f'model.{name} is {getattr(config, name)}; a config.json of'
        f' diffusers means {getattr(default, name)} and cannot say another'
      )
  # Where positions do not depend on it, the size of the 2B and 5B models.
  rows, columns = config.base or (30, 45)
  return {
    '_class_name': _CLASS,
    **_FIXED,
    **{key: getattr(config, name) for key, (name, _) in _FIELDS.items()},
    'attention_head_dim': config.model_dim // config.num_heads,
    'sample_frames': 4 * config.segment_latent_frames + 1,
    'sample_height': rows * config.patch_size,
    'sample_width': columns * config.patch_size,
    'use_rotary_positional_embeddings': config.positions == 'rope',
  }
