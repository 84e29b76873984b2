"""Stable Diffusion's U-Net in diffusers' layout, inflated to video.

config.json and the weights are those of the 2-D model, and diffusers can load
them. Temporal attention, which the inflation adds, is in a second file, with
the names of Tune-A-Video.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
import pathlib
import types
from typing import Any

from ttt_jax.convert import lazy_params
from ttt_jax.convert import model_folder
from ttt_jax.convert import model_format
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import stable_diffusion as sd
from ttt_jax.convert.rules import Rule
from ttt_jax.models.unet3d import unet
from ttt_jax.models.unet3d.config import UNet3DConfig
from ttt_jax.runtime import schema

CLASS = 'UNet2DConditionModel'
_DOWN = {True: 'CrossAttnDownBlock2D', False: 'DownBlock2D'}
_UP = {True: 'CrossAttnUpBlock2D', False: 'UpBlock2D'}
# Old files lack the fields with defaults.
_FIELDS = {
  'in_channels': ('in_channels', model_format.REQUIRED),
  'out_channels': ('out_channels', model_format.REQUIRED),
  'layers_per_block': ('layers_per_block', model_format.REQUIRED),
  'cross_attention_dim': ('text_dim', model_format.REQUIRED),
  'norm_num_groups': ('norm_num_groups', model_format.REQUIRED),
  'block_out_channels': ('block_out_channels', model_format.REQUIRED),
  'norm_eps': ('norm_eps', 1e-5),
  'sample_size': ('sample_size', None),
  'upcast_attention': ('upcast_attention', False),
  'use_linear_projection': ('use_linear_projection', False),
  # The number of heads in spite of its name: one for all levels (SD 1), or
  # one per level (SD 2).
  'attention_head_dim': ('num_heads', model_format.REQUIRED),
  'down_block_types': ('down', model_format.REQUIRED),
  'up_block_types': ('up', model_format.REQUIRED),
  # A field of ours, which diffusers ignores.
  'prediction_type': ('prediction', 'epsilon'),
}
_KINDS = schema.field_kinds(UNet3DConfig) | {
  'num_heads': schema.PositiveInt | schema.Levels,
  'down': list[str],
  'up': list[str],
}
# Input channels of models that see more than the noise.
_CONDITIONED = {
  5: 'a depth-to-image model',
  7: 'an upscaler',
  8: 'an InstructPix2Pix model',
  9: 'an inpainting model',
}
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


# Prefixes of modules with blocks: published, ours.
_PREFIXES = (
  ('{side}_blocks.{i}.', '{side}_blocks_{i}_'),
  ('mid_block.', 'mid_block_'),
)
_BLOCK = 'attentions.{j}.transformer_blocks.0'


def config_from_json(
  found: Mapping[str, Any], path: str, **choices: Any
) -> UNet3DConfig:
  """Returns the config that a `config.json` contains.

  Args:
    found: Content of the file.
    path: Name of the file, for messages.
    **choices: Config fields that the file lacks, or that it does not decide.

  Raises:
    ValueError: another class, a model that is not supported, or invalid
      sizes.
  """
  model_format.check_class(found, CLASS, path, sd.SUPPORTED)
  if found.get('addition_embed_type') == 'text_time':
    raise ValueError(f'{path} is Stable Diffusion XL: {sd.SUPPORTED}')
  model_format.check_fixed(found, _FIXED, path)
  fields = model_format.read_fields(found, _FIELDS, path, _KINDS)
  inputs, outputs = fields['in_channels'], fields['out_channels']
  if inputs != outputs:
    kind = _CONDITIONED.get(inputs, 'a model with a condition')
    raise ValueError(
      f'{path} is {kind}: its U-Net takes {inputs} channels and returns'
      f' {outputs}; {sd.SUPPORTED}, text to image, whose U-Net takes as many as'
      ' it returns'
    )
  levels = len(fields['block_out_channels'])
  if isinstance(fields['num_heads'], int):
    fields['num_heads'] = (fields['num_heads'],) * levels
  down, up = fields.pop('down'), fields.pop('up')
  crossing = tuple(name == _DOWN[True] for name in down)
  expected = [_DOWN[c] for c in crossing], [_UP[c] for c in crossing[::-1]]
  if (down, up) != expected or len(crossing) != levels:
    raise ValueError(
      f'{path} has down_block_types {schema.show(down)} and up_block_types'
      f' {schema.show(up)}: they must be {levels} of'
      f' {", ".join(_DOWN.values())}, and the same with Up in reverse order'
    )
  fields['cross_attention'] = crossing
  return model_format.construct(UNet3DConfig, path, **fields | choices)


def config_to_json(config: UNet3DConfig) -> dict[str, Any]:
  """Returns the content of `config.json`."""
  heads = config.num_heads
  down = [_DOWN[c] for c in config.cross_attention]
  up = [_UP[c] for c in reversed(config.cross_attention)]
  values = types.SimpleNamespace(**vars(config), down=down, up=up)
  return {
    '_class_name': CLASS,
    **_FIXED,
    **model_format.write_fields(values, _FIELDS),
    'attention_head_dim': heads[0] if len(set(heads)) == 1 else list(heads),
  }


def rules(config: UNet3DConfig) -> list[Rule]:
  """Returns the rules for the 2-D model."""
  out = [
    *rules_lib.conv('conv_in', 'conv_in'),
    *rules_lib.conv('conv_out', 'conv_out'),
    *rules_lib.norm('conv_norm_out', 'norm_out'),
    *rules_lib.dense('time_embedding.linear_1', 'time_1'),
    *rules_lib.dense('time_embedding.linear_2', 'time_2'),
    *rules_lib.conv(
      '{side}_blocks.{i}.{samplers}.0.conv',
      '{side}_blocks_{i}_{samplers}_0/conv',
    ),
  ]
  project = rules_lib.dense if config.use_linear_projection else rules_lib.conv
  for theirs, ours in _PREFIXES:
    resnet = f'{theirs}resnets.{{j}}', f'{ours}resnets_{{j}}'
    out += sd.resnet(*resnet)
    out += rules_lib.dense(f'{resnet[0]}.time_emb_proj', f'{resnet[1]}/time')
    outer = f'{theirs}attentions.{{j}}', f'{ours}attentions_{{j}}'
    out += rules_lib.norm(f'{outer[0]}.norm', f'{outer[1]}/norm')
    for name in ('proj_in', 'proj_out'):
      out += project(f'{outer[0]}.{name}', f'{outer[1]}/{name}')
    inner = f'{theirs}{_BLOCK}', f'{outer[1]}/block'
    for name in ('norm1', 'norm2', 'norm3'):
      out += rules_lib.norm(f'{inner[0]}.{name}', f'{inner[1]}/{name}')
    for name in ('attn1', 'attn2'):
      out += _attention(f'{inner[0]}.{name}', f'{inner[1]}/{name}')
    out += rules_lib.dense(f'{inner[0]}.ff.net.0.proj', f'{inner[1]}/ff/up')
    out += rules_lib.dense(f'{inner[0]}.ff.net.2', f'{inner[1]}/ff/down')
  return out


def temporal_rules() -> list[Rule]:
  """Returns the rules for temporal attention."""
  out = []
  for theirs, ours in _PREFIXES:
    inner = f'{theirs}{_BLOCK}', f'{ours}attentions_{{j}}/block'
    out += rules_lib.norm(f'{inner[0]}.norm_temp', f'{inner[1]}/norm_temp')
    out += _attention(f'{inner[0]}.attn_temp', f'{inner[1]}/attn_temp')
  return out


def _attention(source: str, target: str) -> list[Rule]:
  return [
    Rule(f'{source}.{name}.weight', f'{target}/{name}/kernel', (1, 0))
    for name in ('to_q', 'to_k', 'to_v')
  ] + rules_lib.dense(f'{source}.to_out.0', f'{target}/to_out')


def _config_from_folder(
  folder: pathlib.Path, temporal: bool | None = None, **choices: Any
) -> UNet3DConfig:
  """Returns the config; `temporal` None follows the contents of the folder."""
  path = folder / 'config.json'
  if temporal is None:
    temporal = _TEMPORAL.is_in(folder)
  config = config_from_json(
    model_format.read_object(path), str(path), temporal=temporal, **choices
  )
  parent = folder.absolute().parent
  # A complete model whose scheduler is missing might predict anything.
  if (parent / 'scheduler').is_dir() or (parent / model_folder.INDEX).is_file():
    prediction = sd.load_schedule(parent).prediction
    config = dataclasses.replace(config, prediction=prediction)
  return config


_TEMPORAL = model_format.Extension(
  name='temporal_extra',
  owns=lambda path: '/norm_temp/' in path or '/attn_temp/' in path,
  rules=lambda config: temporal_rules(),
  init_params=unet.init_params,
)
FORMAT = model_format.ModelFormat(
  name='unet',
  part='unet',
  config_class=UNet3DConfig,
  class_names=(CLASS,),
  weights='diffusion_pytorch_model',
  config_from_json=config_from_json,
  config_to_json=config_to_json,
  abstract_params=unet.abstract_params,
  rules=rules,
  supported=sd.SUPPORTED,
  config_from_folder=_config_from_folder,
  extension=lambda config: _TEMPORAL,
)
save_unet = FORMAT.save


def has_temporal(folder: str | os.PathLike[str]) -> bool:
  """Returns whether the folder of a U-Net contains temporal attention."""
  return _TEMPORAL.is_in(pathlib.Path(folder))


def load_unet(
  folder: str | os.PathLike[str],
  *,
  temporal: bool = True,
  fresh: bool = False,
  reference_bias: bool = False,
  seed: int = 0,
  dtype: Any = None,
  sharding: lazy_params.Placement = None,
) -> tuple[UNet3DConfig, dict[str, Any]]:
  """Loads the U-Net of Stable Diffusion as `ModelFormat.load` does.

  The prediction of the network is defined by `scheduler` next to the folder,
  else by config.json if `save_unet` wrote it, else it is the noise.

  Args:
    folder: Folder of the model, or of a complete one with `unet`.
    temporal: Adds temporal attention; False loads the 2-D model.
    fresh: Initialises temporal attention even if the folder contains it.
    reference_bias: Field of `UNet3DConfig`, for initial values.
    seed: Seed of the initial values.
    dtype: Type of the parameters, see `ModelFormat.load`.
    sharding: Sharding of each parameter, see `ModelFormat.load`.
  """
  return FORMAT.load(
    folder,
    dtype=dtype,
    sharding=sharding,
    seed=seed,
    fresh=fresh,
    temporal=temporal,
    reference_bias=reference_bias,
  )
