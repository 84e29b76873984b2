"""Stable Diffusion's autoencoder in diffusers' layout."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

import numpy as np

from ttt_jax.convert import lazy_params
from ttt_jax.convert import model_format
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import stable_diffusion as sd
from ttt_jax.convert.rules import Rule
from ttt_jax.models.vae import kl

_CLASS = 'AutoencoderKL'
# Files of Stable Diffusion 1 lack the fields with defaults.
_FIELDS = {
  'in_channels': ('in_channels', model_format.REQUIRED),
  'out_channels': ('out_channels', model_format.REQUIRED),
  'latent_channels': ('latent_channels', model_format.REQUIRED),
  'layers_per_block': ('layers_per_block', model_format.REQUIRED),
  'norm_num_groups': ('norm_num_groups', 32),
  'block_out_channels': ('block_out_channels', model_format.REQUIRED),
  'scaling_factor': ('scaling_factor', 0.18215),
  'sample_size': ('sample_size', None),
}
_FIXED = {
  'act_fn': 'silu',
  'latents_mean': None,
  'latents_std': None,
  'mid_block_add_attention': True,
  'shift_factor': None,
  'use_post_quant_conv': True,
  'use_quant_conv': True,
}
# Layers of the attention: our name, the published one, and the one in files of
# Stable Diffusion 1.
_NAMES = (
  ('norm', 'group_norm', 'group_norm'),
  ('to_q', 'to_q', 'query'),
  ('to_k', 'to_k', 'key'),
  ('to_v', 'to_v', 'value'),
  ('to_out', 'to_out.0', 'proj_attn'),
)


def _attention(source: str, target: str) -> list[Rule]:
  """Returns the rules of attention, present names first: those are written."""
  out = []
  for ours, *theirs in _NAMES:
    rules = rules_lib.norm if ours == 'norm' else rules_lib.dense
    for name in dict.fromkeys(theirs):
      out += rules(f'{source}.{name}', f'{target}/{ours}')
  return out


def rules(config: kl.KLVAEConfig) -> list[Rule]:
  """Returns the rules for a model of these sizes."""
  c = config.latent_channels
  mid = '{side}.mid_block.', '{side}/mid_block_'
  blocks = '{side}.{blocks}.{i}.', '{side}/{blocks}_{i}_'
  out = [
    *rules_lib.conv('{side}.conv_in', '{side}/conv_in'),
    *rules_lib.conv('{side}.conv_out', '{side}/conv_out'),
    *rules_lib.norm('{side}.conv_norm_out', '{side}/norm_out'),
    *sd.resnet(f'{mid[0]}resnets.{{j}}', f'{mid[1]}resnets_{{j}}'),
    *_attention(f'{mid[0]}attentions.{{j}}', f'{mid[1]}attentions_{{j}}'),
    *sd.resnet(f'{blocks[0]}resnets.{{j}}', f'{blocks[1]}resnets_{{j}}'),
    *rules_lib.conv(
      f'{blocks[0]}{{samplers}}.0.conv', f'{blocks[1]}{{samplers}}_0/conv'
    ),
  ]
  # Convolutions of one pixel are dense layers.
  for name, size in (('quant', 2 * c), ('post_quant', c)):
    out += [
      Rule(
        f'{name}_conv.weight',
        f'{name}/kernel',
        (1, 0),
        view=(size, size),
        shape=(size, size, 1, 1),
      ),
      Rule(f'{name}_conv.bias', f'{name}/bias'),
    ]
  return out


def config_from_json(found: Mapping[str, Any], path: str) -> kl.KLVAEConfig:
  """Returns the config that a `config.json` contains.

  Raises:
    ValueError: another class, an option that is not supported, or invalid
      sizes.
  """
  model_format.check_class(found, _CLASS, path, sd.SUPPORTED)
  model_format.check_fixed(found, _FIXED, path)
  fields = model_format.read_fields(found, _FIELDS, path, kl.KLVAEConfig)
  blocks = _block_types(len(fields['block_out_channels']))
  model_format.check_fixed(found, blocks, path)
  return model_format.construct(kl.KLVAEConfig, path, **fields)


def config_to_json(config: kl.KLVAEConfig) -> dict[str, Any]:
  """Returns the content of `config.json`."""
  return {
    '_class_name': _CLASS,
    **_FIXED,
    **_block_types(len(config.block_out_channels)),
    **model_format.write_fields(config, _FIELDS),
  }


def _block_types(levels: int) -> dict[str, list[str]]:
  return {
    'down_block_types': ['DownEncoderBlock2D'] * levels,
    'up_block_types': ['UpDecoderBlock2D'] * levels,
  }


FORMAT = model_format.ModelFormat(
  name='kl_vae',
  part='vae',
  config_class=kl.KLVAEConfig,
  class_names=(_CLASS,),
  weights='diffusion_pytorch_model',
  config_from_json=config_from_json,
  config_to_json=config_to_json,
  abstract_params=kl.abstract_params,
  rules=rules,
  supported=sd.SUPPORTED,
)
save_kl_vae = FORMAT.save


def load_kl_vae(
  folder: str | os.PathLike[str],
  *,
  dtype: Any = np.float32,
  sharding: lazy_params.Placement = None,
) -> tuple[kl.KLVAEConfig, dict[str, Any]]:
  """Loads a `KLVAE` as `ModelFormat.load` does."""
  return FORMAT.load(folder, dtype=dtype, sharding=sharding)
