"""The video autoencoder in diffusers' layout: config.json + safetensors."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.convert import lazy_params
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import safetensors_reader
from ttt_jax.convert import safetensors_writer
from ttt_jax.convert.rules import Rule
from ttt_jax.models.vae.causal3d import CausalVAE
from ttt_jax.models.vae.causal3d import CausalVAEConfig
from ttt_jax.runtime import json_file

WEIGHTS = 'diffusion_pytorch_model'

_CLASS = 'AutoencoderKLCogVideoX'
_CONV3D = (2, 3, 4, 1, 0)
_CONV2D = (2, 3, 1, 0)

# Fields of ours that diffusers does not have, or names otherwise.
_RENAMED = {'shift': 'shift_factor'}
# What only one value of is supported: anything else changes the function.
_FIXED = {
  'act_fn': 'silu',
  'use_quant_conv': False,
  'use_post_quant_conv': False,
  'latents_mean': None,
  'latents_std': None,
}


def _conv(source: str, target: str, axes=_CONV3D) -> list[Rule]:
  return [
    Rule(f'{source}.weight', f'{target}/kernel', axes),
    Rule(f'{source}.bias', f'{target}/bias'),
  ]


def _norm(source: str, target: str) -> list[Rule]:
  """A norm of the encoder, then a spatial norm of the decoder."""
  return [
    Rule(f'encoder.{source}.weight', f'encoder/{target}/scale'),
    Rule(f'encoder.{source}.bias', f'encoder/{target}/bias'),
    Rule(
      f'decoder.{source}.norm_layer.weight',
      f'decoder/{target}/norm_layer/scale',
    ),
    Rule(
      f'decoder.{source}.norm_layer.bias', f'decoder/{target}/norm_layer/bias'
    ),
    *_conv(f'decoder.{source}.conv_y.conv', f'decoder/{target}/conv_y'),
    *_conv(f'decoder.{source}.conv_b.conv', f'decoder/{target}/conv_b'),
  ]


def _block(source: str, target: str) -> list[Rule]:
  """A stage's residual blocks; the stage is called `source`."""
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
  *_conv(
    '{side}.{blocks}.{i}.{samplers}.0.conv',
    '{side}/{blocks}_{i}/{samplers}_0/conv',
    _CONV2D,
  ),
  *_norm('norm_out', 'norm_out'),
  *_conv('{side}.linear_shortcut', '{side}/linear_shortcut', (1, 0)),
)


def config_from_json(found: dict, what: str) -> CausalVAEConfig:
  """Returns the config that a `config.json` holds.

  Raises:
    ValueError: another class, or an option that we do not support.
  """
  if found.get('_class_name', _CLASS) != _CLASS:
    raise ValueError(
      f'{what} describes a {found["_class_name"]}: only {_CLASS} can be loaded'
    )
  for key, value in _FIXED.items():
    if found.get(key, value) != value:
      raise ValueError(
        f'{what} has {key} = {found[key]!r}: only {value!r} is supported'
      )
  values = {}
  for field in dataclasses.fields(CausalVAEConfig):
    value = found.get(_RENAMED.get(field.name, field.name), field.default)
    values[field.name] = tuple(value) if isinstance(value, list) else value
  return CausalVAEConfig(**values)


def config_to_json(config: CausalVAEConfig) -> dict:
  """Returns the content of `config.json`."""
  count = len(config.block_out_channels)
  found = {'_class_name': _CLASS, **_FIXED}
  found['down_block_types'] = ['CogVideoXDownBlock3D'] * count
  found['up_block_types'] = ['CogVideoXUpBlock3D'] * count
  for name, value in dataclasses.asdict(config).items():
    found[_RENAMED.get(name, name)] = value
  return found


def load_vae(
  folder: str | os.PathLike[str],
  *,
  dtype: Any = np.float32,
  sharding: lazy_params.Sharding | None = None,
) -> tuple[CausalVAEConfig, dict[str, Any]]:
  """Loads an autoencoder from a folder in diffusers' layout.

  Args:
    folder: holds `config.json` and safetensors, one file or several with an
      index; or has such a folder called `vae`.
    dtype: of the parameters; None keeps that of the files.
    sharding: where each parameter goes; None is the default device.

  Returns:
    The config and the parameters for `CausalVAE(config)`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the config is not supported, the weights are cut short, or
      the two do not fit each other.
  """
  folder = safetensors_reader.find_folder(folder, 'vae')
  path = folder / 'config.json'
  found = json_file.read(path)
  if not isinstance(found, dict):
    raise ValueError(f'{path} holds no JSON object')
  config = config_from_json(found, str(path))
  tensors = safetensors_reader.open_folder(folder, WEIGHTS)
  params = rules_lib.from_source(
    RULES,
    tensors,
    parameter_shapes(config),
    tensors.name,
    dtype=dtype,
    sharding=sharding,
  )
  if sharding is None:
    params = jax.tree.map(jnp.asarray, params)
  return config, params


def save_vae(
  config: CausalVAEConfig,
  params: Mapping[str, Any],
  folder: str | os.PathLike[str],
  *,
  dtype: Any = None,
  shard_bytes: int = safetensors_writer.SHARD_BYTES,
) -> None:
  """Writes an autoencoder in diffusers' layout.

  Args:
    config: of the model.
    params: its parameters.
    folder: made if it is not there.
    dtype: of the files; None keeps that of the parameters.
    shard_bytes: more than that go into several files with an index.

  Raises:
    FileExistsError: the folder holds a model already.
  """
  safetensors_writer.write_folder(
    folder,
    WEIGHTS,
    RULES,
    params,
    dtype=dtype,
    shard_bytes=shard_bytes,
    config=config_to_json(config),
  )


def parameter_shapes(config: CausalVAEConfig) -> dict[str, tuple[int, ...]]:
  """Returns '/'-joined path -> shape of the model's parameters."""
  side = config.spatial_compression
  frames = jax.ShapeDtypeStruct(
    (1, 1, side, side, config.in_channels), jnp.float32
  )
  tree = jax.eval_shape(CausalVAE(config).init, jax.random.key(0), frames)
  flat = traverse_util.flatten_dict(tree['params'], sep='/')
  return {path: value.shape for path, value in flat.items()}
