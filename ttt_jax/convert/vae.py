"""The video autoencoder in diffusers' layout: config.json + safetensors."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.convert import lazy_params
from ttt_jax.convert import model_format
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert.rules import Rule
from ttt_jax.models.vae import causal3d

_CLASS = 'AutoencoderKLCogVideoX'
_FIELDS = {
  {'shift': 'shift_factor'}.get(field.name, field.name): (
    field.name,
    field.default,
  )
  for field in dataclasses.fields(causal3d.CausalVAEConfig)
}
_FIXED = {
  'act_fn': 'silu',
  'use_quant_conv': False,
  'use_post_quant_conv': False,
  'latents_mean': None,
  'latents_std': None,
}

_conv = functools.partial(rules_lib.conv, axes=rules_lib.CONV3D)


def _norm(source: str, target: str) -> list[Rule]:
  """Returns the rules of an encoder's norm and a decoder's spatial norm."""
  decoder = f'decoder.{source}', f'decoder/{target}'
  return [
    *rules_lib.norm(f'encoder.{source}', f'encoder/{target}'),
    *rules_lib.norm(f'{decoder[0]}.norm_layer', f'{decoder[1]}/norm_layer'),
    *_conv(f'{decoder[0]}.conv_y.conv', f'{decoder[1]}/conv_y'),
    *_conv(f'{decoder[0]}.conv_b.conv', f'{decoder[1]}/conv_b'),
  ]


def _block(source: str, target: str) -> list[Rule]:
  """Returns the rules of the residual blocks of the level `source`."""
  inner, ours = f'{source}.resnets.{{j}}', f'{target}/resnets_{{j}}'
  rules = []
  for i in (1, 2):
    rules += _norm(f'{inner}.norm{i}', f'{ours}/norm{i}')
    rules += _conv(f'{{side}}.{inner}.conv{i}.conv', f'{{side}}/{ours}/conv{i}')
  rules += _conv(
    f'{{side}}.{inner}.conv_shortcut', f'{{side}}/{ours}/conv_shortcut'
  )
  return rules


RULES = (
  *_conv('{side}.conv_in.conv', '{side}/conv_in'),
  *_conv('{side}.conv_out.conv', '{side}/conv_out'),
  *_block('down_blocks.{i}', 'down_blocks_{i}'),
  *_block('up_blocks.{i}', 'up_blocks_{i}'),
  *_block('mid_block', 'mid_block'),
  *rules_lib.conv(
    '{side}.{blocks}.{i}.{samplers}.0.conv',
    '{side}/{blocks}_{i}/{samplers}_0/conv',
  ),
  *_norm('norm_out', 'norm_out'),
  *rules_lib.dense('{side}.linear_shortcut', '{side}/linear_shortcut'),
  *_conv('decoder.refine.conv', 'decoder/refine'),
)


def config_from_json(
  found: Mapping[str, Any], path: str
) -> causal3d.CausalVAEConfig:
  """Returns the config that a `config.json` contains.

  Raises:
    ValueError: another class, or an option that is not supported.
  """
  model_format.check_class(found, _CLASS, path)
  model_format.check_fixed(found, _FIXED, path)
  fields = model_format.read_fields(
    found, _FIELDS, path, causal3d.CausalVAEConfig
  )
  return model_format.construct(causal3d.CausalVAEConfig, path, **fields)


def config_to_json(config: causal3d.CausalVAEConfig) -> dict[str, Any]:
  """Returns the content of `config.json`."""
  count = len(config.block_out_channels)
  return {
    '_class_name': _CLASS,
    **_FIXED,
    'down_block_types': ['CogVideoXDownBlock3D'] * count,
    'up_block_types': ['CogVideoXUpBlock3D'] * count,
    **model_format.write_fields(config, _FIELDS),
  }


FORMAT = model_format.ModelFormat(
  name='vae',
  part='vae',
  config_class=causal3d.CausalVAEConfig,
  class_names=(_CLASS,),
  weights='diffusion_pytorch_model',
  config_from_json=config_from_json,
  config_to_json=config_to_json,
  abstract_params=causal3d.abstract_params,
  rules=lambda config: RULES,
)
save_vae = FORMAT.save


def load_vae(
  folder: str | os.PathLike[str],
  *,
  dtype: Any = np.float32,
  sharding: lazy_params.Placement = None,
) -> tuple[causal3d.CausalVAEConfig, dict[str, Any]]:
  """Loads a `CausalVAE` as `ModelFormat.load` does, always as JAX arrays.

  Example:
    >>> from ttt_jax.convert import model_folder
    >>> folder = model_folder.resolve('package:ttt_jax/assets/quickstart_vae')
    >>> config, params = load_vae(folder)
    >>> config.latent_channels, config.spatial_compression
    (16, 8)
  """
  config, params = FORMAT.load(folder, dtype=dtype, sharding=sharding)
  if sharding is None:
    params = jax.tree.map(jnp.asarray, params)
  return config, params
