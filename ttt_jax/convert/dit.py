"""The transformer in diffusers' layout: config.json + safetensors.

CogVideoX-2B and -5B, text to video. A model with TTT layers has two files
more, which diffusers does not look at: `ttt.json` says which layers they are,
`ttt.safetensors` holds their weights and gates with the paper's names.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import os
import pathlib
from typing import Any

from flax import traverse_util

from ttt_jax.convert import init_missing
from ttt_jax.convert import lazy_params
from ttt_jax.convert import reference
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import safetensors_reader
from ttt_jax.convert import safetensors_writer
from ttt_jax.convert.rules import Rule
from ttt_jax.models import dit
from ttt_jax.runtime import json_file

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


WEIGHTS = 'diffusion_pytorch_model'
TTT = 'ttt'

_BLOCK = 'transformer_blocks.{i}'
_NEW = ('layers/seq/ttt/', 'layers/seq/gates/')

# Fields of ours that ttt.json holds.
_TTT_FIELDS = ('mixer', 'mini_batch', 'ttt_base_lr', 'gate_init')
# As in the paper's code.
_BASE_LR = {'none': 0.1, 'ttt_mlp': 0.1, 'ttt_linear': 1.0}


def rules(config: dit.DiTConfig) -> list[Rule]:
  """The table for the pre-trained part of a model of these sizes."""
  m, p = config.model_dim, config.patch_size
  out = [
    *rules_lib.dense('time_embedding.linear_1', 'time_1'),
    *rules_lib.dense('time_embedding.linear_2', 'time_2'),
    # A convolution by patches: channels first there, last here.
    Rule(
      'patch_embed.proj.weight',
      'patch/kernel',
      (2, 3, 1, 0),
      view=(m, config.in_channels, p, p),
    ),
    Rule('patch_embed.proj.bias', 'patch/bias'),
    *rules_lib.dense('patch_embed.text_proj', 'text'),
    *rules_lib.norm('norm_final', 'norm'),
    *rules_lib.norm('norm_out.norm', 'final_norm'),
    *rules_lib.dense('norm_out.linear', 'final_modulation'),
    *reference.output('proj_out', p, config.out_channels, m),
    *rules_lib.dense(f'{_BLOCK}.ff.net.0.proj', 'layers/mlp/up'),
    *rules_lib.dense(f'{_BLOCK}.ff.net.2', 'layers/mlp/down'),
  ]
  for ours, theirs in (('seq', 'norm1'), ('mlp', 'norm2')):
    out += rules_lib.norm(f'{_BLOCK}.{theirs}.norm', f'layers/{ours}_norm')
    out += rules_lib.dense(
      f'{_BLOCK}.{theirs}.linear', f'layers/{ours}_modulation/dense'
    )
  for ours, theirs in zip('qkvo', ('to_q', 'to_k', 'to_v', 'to_out.0')):
    out += rules_lib.dense(
      f'{_BLOCK}.attn1.{theirs}', f'layers/seq/attn/{ours}'
    )
  for name in 'qk':
    out += rules_lib.norm(
      f'{_BLOCK}.attn1.norm_{name}', f'layers/seq/attn/{name}_norm'
    )
  return out


def ttt_rules(config: dit.DiTConfig) -> list[Rule]:
  """The table for the TTT layers and their gates."""
  return reference.mixer_rules(config, _BLOCK)


def load_config(
  folder: str | os.PathLike[str],
  *,
  mixer: str | None = None,
  mini_batch: int | None = None,
) -> dit.DiTConfig:
  """The config of `load_dit`, which see, without a look at the weights."""
  folder = safetensors_reader.find_folder(folder, 'transformer')
  path = folder / 'config.json'
  found = json_file.read(path)
  if not isinstance(found, dict):
    raise ValueError(f'{path} holds no JSON object')
  config = config_from_json(found, str(path))
  saved = _saved_ttt(folder)
  if mixer == 'none' or (saved is None and mixer is None):
    return config
  if saved is None:
    saved = dict(
      mixer=mixer,
      mini_batch=mini_batch or config.mini_batch,
      ttt_base_lr=_BASE_LR.get(mixer, config.ttt_base_lr),
      gate_init=config.gate_init,
    )
  for name, value in (('mixer', mixer), ('mini_batch', mini_batch)):
    if value is not None and value != saved[name]:
      raise ValueError(
        f'{name} is {value!r}, but the weights in {folder} were trained with'
        f' {saved[name]!r}; give that, or none'
      )
  return dataclasses.replace(config, **saved)


def load_dit(
  folder: str | os.PathLike[str],
  *,
  mixer: str | None = None,
  mini_batch: int | None = None,
  seed: int = 0,
  dtype: Any = None,
  sharding: lazy_params.Sharding | None = None,
) -> tuple[dit.DiTConfig, dict[str, Any]]:
  """Loads a transformer from a folder in diffusers' layout.

  Args:
    folder: holds `config.json` and safetensors, one file or several with an
      index; or has such a folder called `transformer`.
    mixer: 'ttt_mlp' or 'ttt_linear' adds TTT layers with fresh weights to a
      model without; 'none' leaves those of the folder away. None takes the
      model as it is.
    mini_batch: tokens that share an inner step of fresh TTT layers.
    seed: of fresh weights.
    dtype: of the parameters; None keeps that of the files, float32 for fresh
      ones.
    sharding: where each parameter goes, for example
      `functools.partial(sharding.param_sharding, mesh)`: the host then holds
      one tensor at a time. None gives numpy arrays, `placing.UNREAD` leaves
      them in their files.

  Returns:
    The config and the parameters for `DiffusionTransformer(config)`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the model is not supported, a file is cut short, or config
      and weights do not fit each other.
  """
  folder = safetensors_reader.find_folder(folder, 'transformer')
  config = load_config(folder, mixer=mixer, mini_batch=mini_batch)
  shapes = {
    path: leaf.shape
    for path, leaf in traverse_util.flatten_dict(
      dit.abstract_params(config), sep='/'
    ).items()
  }
  is_new = lambda path: path.startswith(_NEW)
  tensors = safetensors_reader.open_folder(folder, WEIGHTS)
  params = rules_lib.from_source(
    rules(config),
    tensors,
    {path: shape for path, shape in shapes.items() if not is_new(path)},
    tensors.name,
    dtype=dtype,
    sharding=sharding,
  )
  new = {path: shape for path, shape in shapes.items() if is_new(path)}
  if new and (folder / f'{TTT}.json').is_file():
    tensors = safetensors_reader.open_file(folder / f'{TTT}.safetensors')
    more = rules_lib.from_source(
      ttt_rules(config),
      tensors,
      new,
      tensors.name,
      dtype=dtype,
      sharding=sharding,
    )
    more = traverse_util.flatten_dict(more, sep='/')
  elif sharding is lazy_params.UNREAD:
    more = init_missing.later(config, new, seed)
  else:
    more = new and init_missing.draw(config, new, seed, dtype, sharding)
  flat = traverse_util.flatten_dict(params, sep='/') | more
  return config, traverse_util.unflatten_dict(flat, sep='/')


def _saved_ttt(folder: pathlib.Path) -> dict[str, Any] | None:
  """The content of ttt.json."""
  path = folder / f'{TTT}.json'
  if not path.is_file():
    if (folder / f'{TTT}.safetensors').is_file():
      raise FileNotFoundError(
        f'{folder} has {TTT}.safetensors but no {TTT}.json; copy it, too'
      )
    return None
  found = json_file.read(path)
  if not isinstance(found, dict) or set(found) != set(_TTT_FIELDS):
    raise ValueError(f'{path} must have exactly {", ".join(_TTT_FIELDS)}')
  return found


def save_dit(
  config: dit.DiTConfig,
  params: Mapping[str, Any],
  folder: str | os.PathLike[str],
  *,
  dtype: Any = None,
  shard_bytes: int = safetensors_writer.SHARD_BYTES,
) -> None:
  """Writes a transformer in diffusers' layout, TTT layers beside.

  Args:
    config: of the model.
    params: its parameters.
    folder: made if it is not there.
    dtype: of the files; None keeps that of the parameters.
    shard_bytes: more than that go into several files with an index.

  Raises:
    FileExistsError: the folder holds a model already.
    ValueError: a config that diffusers' format cannot express.
  """
  folder = pathlib.Path(folder)
  content = config_to_json(config)
  safetensors_writer.check_free(folder, WEIGHTS)
  safetensors_writer.check_free(folder, TTT)
  flat = traverse_util.flatten_dict(params, sep='/')
  new = {path: flat.pop(path) for path in list(flat) if path.startswith(_NEW)}
  nested = lambda flat: traverse_util.unflatten_dict(flat, sep='/')
  if new:
    safetensors_writer.write_folder(
      folder,
      TTT,
      ttt_rules(config),
      nested(new),
      dtype=dtype,
      shard_bytes=math.inf,
    )
    safetensors_writer.write_json(
      folder / f'{TTT}.json',
      {name: getattr(config, name) for name in _TTT_FIELDS},
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
