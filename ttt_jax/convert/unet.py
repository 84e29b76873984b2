"""Stable Diffusion's U-Net in diffusers' layout, inflated to video.

config.json and the weights are those of the 2-D model, which diffusers loads
as such. What the inflation adds, attention over frames, lies beside them in a
file that diffusers does not look at, with the names of Tune-A-Video.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
import os
import pathlib
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
from ttt_jax.models.unet3d import unet
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


WEIGHTS = 'diffusion_pytorch_model'
TEMPORAL = 'temporal_extra'

_NEW = ('/norm_temp/', '/attn_temp/')
# Places with blocks: theirs, ours.
_PLACES = (
  ('{side}_blocks.{i}.', '{side}_blocks_{i}_'),
  ('mid_block.', 'mid_block_'),
)
_BLOCK = 'attentions.{j}.transformer_blocks.0'


def rules(config: unet.UNet3DConfig) -> list[Rule]:
  """The table of the 2-D model."""
  out = [
    *sd.conv('conv_in', 'conv_in'),
    *sd.conv('conv_out', 'conv_out'),
    *rules_lib.norm('conv_norm_out', 'norm_out'),
    *rules_lib.dense('time_embedding.linear_1', 'time_1'),
    *rules_lib.dense('time_embedding.linear_2', 'time_2'),
    *sd.conv(
      '{side}_blocks.{i}.{samplers}.0.conv',
      '{side}_blocks_{i}_{samplers}_0/conv',
    ),
  ]
  project = rules_lib.dense if config.use_linear_projection else sd.conv
  for theirs, ours in _PLACES:
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
  """The table of what the inflation adds."""
  out = []
  for theirs, ours in _PLACES:
    inner = f'{theirs}{_BLOCK}', f'{ours}attentions_{{j}}/block'
    out += rules_lib.norm(f'{inner[0]}.norm_temp', f'{inner[1]}/norm_temp')
    out += _attention(f'{inner[0]}.attn_temp', f'{inner[1]}/attn_temp')
  return out


def _attention(source: str, target: str) -> list[Rule]:
  return [
    Rule(f'{source}.{name}.weight', f'{target}/{name}/kernel', (1, 0))
    for name in ('to_q', 'to_k', 'to_v')
  ] + rules_lib.dense(f'{source}.to_out.0', f'{target}/to_out')


def has_temporal(folder: str | os.PathLike[str]) -> bool:
  """Whether the folder of a U-Net holds temporal attention, too."""
  return (pathlib.Path(folder) / f'{TEMPORAL}.safetensors').is_file()


def load_unet(
  folder: str | os.PathLike[str],
  *,
  temporal: bool = True,
  fresh: bool = False,
  reference_bias: bool = False,
  seed: int = 0,
  dtype: Any = None,
  sharding: lazy_params.Sharding | None = None,
) -> tuple[unet.UNet3DConfig, dict[str, Any]]:
  """Loads the U-Net of Stable Diffusion 1 or 2, tuned or not.

  What the network predicts is in `scheduler` beside the folder, in
  config.json where `save_unet` wrote it, or else the noise.

  Args:
    folder: holds `config.json` and safetensors, one file or several with an
      index; or has such a folder called `unet`.
    temporal: inflate. Without it this is the 2-D model.
    fresh: draw the temporal attention anew even where the folder has one.
    reference_bias: of `UNet3DConfig`, for fresh ones.
    seed: of fresh weights.
    dtype: of the parameters; None keeps that of the files, float32 for fresh
      ones.
    sharding: where each parameter goes, for example
      `functools.partial(sharding.param_sharding, mesh)`: the host then holds
      one tensor at a time. None gives numpy arrays.

  Returns:
    The config, computing in float32, and the parameters for
    `UNet3D(config)`.

  Raises:
    FileNotFoundError: a file is missing, or the scheduler of a whole model.
    ValueError: the model is not supported, a file is cut short, or config
      and weights do not fit each other.
  """
  folder = sd.find_part(folder, 'unet')
  path = folder / 'config.json'
  found = sd.read_config(path)
  config = config_from_json(
    found,
    str(path),
    prediction=_prediction(folder, found),
    temporal=temporal,
    reference_bias=reference_bias,
  )
  shapes = {
    name: leaf.shape
    for name, leaf in traverse_util.flatten_dict(
      unet.abstract_params(config), sep='/'
    ).items()
  }
  is_new = lambda name: any(part in name for part in _NEW)
  new = {name: shape for name, shape in shapes.items() if is_new(name)}
  tensors = safetensors_reader.open_folder(folder, WEIGHTS)
  params = rules_lib.from_source(
    rules(config),
    tensors,
    {name: shape for name, shape in shapes.items() if name not in new},
    tensors.name,
    dtype=dtype,
    sharding=sharding,
  )
  flat = traverse_util.flatten_dict(params, sep='/')
  if new and not fresh and has_temporal(folder):
    tensors = safetensors_reader.open_file(folder / f'{TEMPORAL}.safetensors')
    more = rules_lib.from_source(
      temporal_rules(),
      tensors,
      new,
      tensors.name,
      dtype=dtype,
      sharding=sharding,
    )
    flat |= traverse_util.flatten_dict(more, sep='/')
  elif new:
    flat |= _draw(config, new, seed, dtype, sharding)
  return config, traverse_util.unflatten_dict(flat, sep='/')


def save_unet(
  config: unet.UNet3DConfig,
  params: Mapping[str, Any],
  folder: str | os.PathLike[str],
  *,
  dtype: Any = None,
  shard_bytes: int = safetensors_writer.SHARD_BYTES,
) -> None:
  """Writes a U-Net in diffusers' layout, temporal attention beside.

  Args:
    config: of the model.
    params: its parameters.
    folder: made if it is not there.
    dtype: of the files; None keeps that of the parameters.
    shard_bytes: more than that go into several files with an index.

  Raises:
    FileExistsError: the folder holds a model already.
  """
  folder = pathlib.Path(folder)
  content = config_to_json(config)
  safetensors_writer.check_free(folder, WEIGHTS)
  safetensors_writer.check_free(folder, TEMPORAL)
  flat = traverse_util.flatten_dict(params, sep='/')
  new = {
    name: flat.pop(name)
    for name in list(flat)
    if any(part in name for part in _NEW)
  }
  nested = lambda flat: traverse_util.unflatten_dict(flat, sep='/')
  if new:
    safetensors_writer.write_folder(
      folder,
      TEMPORAL,
      temporal_rules(),
      nested(new),
      dtype=dtype,
      shard_bytes=math.inf,
    )
  safetensors_writer.write_folder(
    folder,
    WEIGHTS,
    rules(config),
    nested(flat),
    dtype=dtype,
    shard_bytes=shard_bytes,
    config=content,
  )


def _prediction(folder: pathlib.Path, found: Mapping[str, Any]) -> str:
  whole = folder.absolute().parent
  # A whole model without one is not taken for a model that predicts noise.
  if (whole / 'scheduler').is_dir() or sd.is_whole(whole):
    return sd.load_schedule(whole).prediction
  return found.get(PREDICTION, 'epsilon')


def _draw(config, shapes, seed, dtype, sharding):
  """Path -> initial value of some parameters, those of `unet.init_params`."""
  dtype = np.dtype(np.float32 if dtype is None else dtype)

  def init(key):
    # What is not asked for is not computed.
    flat = traverse_util.flatten_dict(unet.init_params(config, key), sep='/')
    return {name: flat[name].astype(dtype) for name in shapes}

  where = sharding and {
    name: sharding(jax.ShapeDtypeStruct(shape, dtype))
    for name, shape in shapes.items()
  }
  flat = jax.jit(init, out_shardings=where)(jax.random.key(seed))
  return flat if sharding else jax.device_get(flat)
