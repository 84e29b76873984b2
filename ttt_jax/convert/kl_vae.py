"""Stable Diffusion's autoencoder in diffusers' layout."""

from __future__ import annotations

from collections.abc import Mapping
import functools
import os
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from ttt_jax.convert import lazy_params
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import safetensors_reader
from ttt_jax.convert import safetensors_writer
from ttt_jax.convert import stable_diffusion as sd
from ttt_jax.convert.rules import Rule
from ttt_jax.models.vae import kl

WEIGHTS = 'diffusion_pytorch_model'

_CLASS = 'AutoencoderKL'
_FIELDS = (
  'in_channels',
  'out_channels',
  'latent_channels',
  'layers_per_block',
  'norm_num_groups',
)
# What the files of Stable Diffusion 1, which are older than these, mean.
_OLD = {'norm_num_groups': 32, 'scaling_factor': 0.18215}
# What only one value of is supported: anything else changes the function.
_FIXED = {
  'act_fn': 'silu',
  'latents_mean': None,
  'latents_std': None,
  'mid_block_add_attention': True,
  'shift_factor': None,
  'use_post_quant_conv': True,
  'use_quant_conv': True,
}
# Of the attention: ours, theirs, and theirs in files of Stable Diffusion 1.
_NAMES = (
  ('norm', 'group_norm', 'group_norm'),
  ('to_q', 'to_q', 'query'),
  ('to_k', 'to_k', 'key'),
  ('to_v', 'to_v', 'value'),
  ('to_out', 'to_out.0', 'proj_attn'),
)


def _attention(source: str, target: str) -> list[Rule]:
  """Present names before old ones, so that they are the ones written."""
  out = []
  for ours, *both in _NAMES:
    rules = rules_lib.norm if ours == 'norm' else rules_lib.dense
    for theirs in dict.fromkeys(both):
      out += rules(f'{source}.{theirs}', f'{target}/{ours}')
  return out


def rules(config: kl.KLVAEConfig) -> list[Rule]:
  """The table for a model of these sizes."""
  c = config.latent_channels
  mid = '{side}.mid_block.', '{side}/mid_block_'
  blocks = '{side}.{blocks}.{i}.', '{side}/{blocks}_{i}_'
  out = [
    *sd.conv('{side}.conv_in', '{side}/conv_in'),
    *sd.conv('{side}.conv_out', '{side}/conv_out'),
    *rules_lib.norm('{side}.conv_norm_out', '{side}/norm_out'),
    *sd.resnet(f'{mid[0]}resnets.{{j}}', f'{mid[1]}resnets_{{j}}'),
    *_attention(f'{mid[0]}attentions.{{j}}', f'{mid[1]}attentions_{{j}}'),
    *sd.resnet(f'{blocks[0]}resnets.{{j}}', f'{blocks[1]}resnets_{{j}}'),
    *sd.conv(
      f'{blocks[0]}{{samplers}}.0.conv', f'{blocks[1]}{{samplers}}_0/conv'
    ),
  ]
  # Convolutions of one pixel.
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


def config_from_json(found: Mapping[str, Any], what: str) -> kl.KLVAEConfig:
  """The config that a `config.json` holds.

  Raises:
    ValueError: another class, an option that we do not support, or sizes
      that cannot be.
  """
  sd.check_class(found, _CLASS, what)
  found = _OLD | dict(found)
  sd.check_fixed(found, _FIXED, what)
  sd.check_sizes(found, _FIELDS, what, ['block_out_channels'])
  channels = found['block_out_channels']
  for key, kind in _block_types(len(channels)).items():
    sd.check_fixed(found, {key: kind}, what)
  scale = found['scaling_factor']
  if not isinstance(scale, (int, float)) or scale <= 0:
    raise ValueError(
      f'{what}: scaling_factor is {scale!r}; it must be a number above 0, for'
      ' example 0.18215'
    )
  try:
    return kl.KLVAEConfig(
      **{name: found[name] for name in _FIELDS},
      block_out_channels=tuple(channels),
      scaling_factor=scale,
      sample_size=found.get('sample_size'),
    )
  except ValueError as e:
    raise ValueError(f'{what}: {e}') from e


def config_to_json(config: kl.KLVAEConfig) -> dict[str, Any]:
  """The content of `config.json`."""
  return {
    '_class_name': _CLASS,
    **_FIXED,
    **_block_types(len(config.block_out_channels)),
    **{name: getattr(config, name) for name in _FIELDS},
    'block_out_channels': list(config.block_out_channels),
    'scaling_factor': config.scaling_factor,
    'sample_size': config.sample_size,
  }


def _block_types(levels: int) -> dict[str, list[str]]:
  return {
    'down_block_types': ['DownEncoderBlock2D'] * levels,
    'up_block_types': ['UpDecoderBlock2D'] * levels,
  }


def load_kl_vae(
  folder: str | os.PathLike[str],
  *,
  dtype: Any = np.float32,
  sharding: lazy_params.Sharding | None = None,
) -> tuple[kl.KLVAEConfig, dict[str, Any]]:
  """Loads the autoencoder of Stable Diffusion 1 or 2.

  Args:
    folder: holds `config.json` and safetensors, one file or several with an
      index; or has such a folder called `vae`.
    dtype: of the parameters; None keeps that of the files.
    sharding: where each parameter goes; None gives numpy arrays.

  Returns:
    The config and the parameters for `KLVAE(config)`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the config is not supported, the weights are cut short, or
      the two do not fit each other.
  """
  folder = sd.find_part(folder, 'vae')
  path = folder / 'config.json'
  config = config_from_json(sd.read_config(path), str(path))
  tensors = safetensors_reader.open_folder(folder, WEIGHTS)
  params = rules_lib.from_source(
    rules(config),
    tensors,
    parameter_shapes(config),
    tensors.name,
    dtype=dtype,
    sharding=sharding,
  )
  return config, params


def save_kl_vae(
  config: kl.KLVAEConfig,
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
    rules(config),
    params,
    dtype=dtype,
    shard_bytes=shard_bytes,
    config=config_to_json(config),
  )


def parameter_shapes(config: kl.KLVAEConfig) -> dict[str, tuple[int, ...]]:
  """'/'-joined path -> shape of the model's parameters."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  tree = jax.eval_shape(functools.partial(kl.init_params, config), key)
  flat = traverse_util.flatten_dict(tree, sep='/')
  return {path: leaf.shape for path, leaf in flat.items()}
