"""The transformer in diffusers' layout: config.json + safetensors.

CogVideoX-2B and -5B, text to video. A model with a mixer has two more files,
which diffusers ignores, with the mixer's scope as their name: `ttt.json`
contains the fields of the layers, `ttt.safetensors` their weights and gates,
those of TTT layers with the paper's names.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
import pathlib
from typing import Any

from ttt_jax.convert import lazy_params
from ttt_jax.convert import model_format
from ttt_jax.convert import reference
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import stable_diffusion
from ttt_jax.convert.rules import Rule
from ttt_jax.models import dit
from ttt_jax.models.dit import mixer as mixer_lib
from ttt_jax.models.dit import mixers
from ttt_jax.runtime import schema

_CLASS = 'CogVideoXTransformer3DModel'
SUPPORTED = 'CogVideoX-2B and CogVideoX-5B, text to video, are supported'
_BLOCK = 'transformer_blocks.{i}'

# The defaults are those of diffusers.
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
# Sizes that our config expresses in another way.
_SIZES = {
  name: (name, default)
  for name, default in (
    ('attention_head_dim', 64),
    ('sample_frames', 49),
    ('sample_height', 60),
    ('sample_width', 90),
  )
}
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


def config_from_json(found: Mapping[str, Any], path: str) -> dit.DiTConfig:
  """Returns the config, without a mixer, that a `config.json` contains.

  Raises:
    ValueError: another class, a model that is not supported, or invalid
      sizes.
  """
  model_format.check_class(found, _CLASS, path, SUPPORTED)
  if found.get('patch_size_t') is not None:
    raise ValueError(
      f'{path} is CogVideoX 1.5 (patch_size_t = {found["patch_size_t"]}):'
      f' not supported yet; {SUPPORTED}'
    )
  fields = model_format.read_fields(found, _FIELDS, path, dit.DiTConfig)
  sizes = model_format.read_fields(
    found, _SIZES, path, dict.fromkeys(_SIZES, schema.PositiveInt)
  )
  is_learned = found.get('use_learned_positional_embeddings', False)
  if fields['in_channels'] != fields['out_channels'] or is_learned:
    raise ValueError(
      f'{path} is an image-to-video model (in_channels ='
      f' {fields["in_channels"]}, out_channels = {fields["out_channels"]},'
      f' use_learned_positional_embeddings = {is_learned}): not supported'
      f' yet; {SUPPORTED}'
    )
  model_format.check_fixed(found, _FIXED, path)
  frames = sizes['sample_frames']
  if frames % 4 != 1 or frames < 5:
    raise ValueError(
      f'{path}: sample_frames is {frames}; it must be 4 n + 1, for example 49'
    )
  is_rotary = found.get('use_rotary_positional_embeddings', False)
  prediction = found.get('prediction_type', 'v_prediction')
  input_skip = found.get('input_skip', False)
  return model_format.construct(
    dit.DiTConfig,
    path,
    **fields,
    prediction=prediction,
    input_skip=input_skip,
    model_dim=sizes['attention_head_dim'] * fields['num_heads'],
    segment_latent_frames=(frames - 1) // 4,
    mixer='none',
    positions='rope' if is_rotary else 'sincos',
    base_rows=sizes['sample_height'] // fields['patch_size'],
    base_columns=sizes['sample_width'] // fields['patch_size'],
  )


def config_to_json(config: dit.DiTConfig) -> dict[str, Any]:
  """Returns the content of `config.json`.

  Raises:
    ValueError: diffusers' format has no field for a value.
  """
  default = dit.DiTConfig()
  for name in ('qk_norm_eps', 'rope_theta'):
    if getattr(config, name) != getattr(default, name):
      raise ValueError(
        f"model.{name} is {getattr(config, name)}; diffusers' config.json has"
        f' no field for it, it must be {getattr(default, name)}'
      )
  # The size of the 2B and 5B models if positions do not depend on it.
  rows, columns = config.base or (30, 45)
  # Where no scheduler stands beside; diffusers has neither field.
  predicts_v = config.prediction == default.prediction
  return {
    '_class_name': _CLASS,
    **({} if predicts_v else {'prediction_type': config.prediction}),
    **({'input_skip': True} if config.input_skip else {}),
    **_FIXED,
    **model_format.write_fields(config, _FIELDS),
    'attention_head_dim': config.model_dim // config.num_heads,
    'sample_frames': 4 * config.segment_latent_frames + 1,
    'sample_height': rows * config.patch_size,
    'sample_width': columns * config.patch_size,
    'use_rotary_positional_embeddings': config.positions == 'rope',
  }


def rules(config: dit.DiTConfig) -> list[Rule]:
  """Returns the rules for the pre-trained part of a model of these sizes."""
  m, p = config.model_dim, config.patch_size
  out = [
    *rules_lib.dense('time_embedding.linear_1', 'time_1'),
    *rules_lib.dense('time_embedding.linear_2', 'time_2'),
    # A dense layer over patches; published with the channels first.
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
  if config.input_skip:
    out += rules_lib.dense('input_skip', 'input_skip')
  return out


def _config_from_folder(
  folder: pathlib.Path,
  mixer: str | None = None,
  mini_batch: int | None = None,
) -> dit.DiTConfig:
  """Returns the config with the mixer of the folder, or with a new one."""
  path = folder / 'config.json'
  config = config_from_json(model_format.read_object(path), str(path))
  if stable_diffusion.predicts_sample(folder.absolute().parent):
    config = dataclasses.replace(config, prediction='sample')
  saved = _read_mixer_fields(folder)
  if mixer == 'none':
    return config
  if saved is None:
    if mixer is None:
      return config
    config = dataclasses.replace(
      config, mixer=mixer, mini_batch=mini_batch or config.mini_batch
    )
    return dataclasses.replace(config, **_mixer(config).defaults)
  for name, value in (('mixer', mixer), ('mini_batch', mini_batch)):
    if value is not None and value != saved.get(name, value):
      raise ValueError(
        f'{name} is {value!r}, but the weights in {folder} were trained with'
        f' {saved[name]!r}; use that, or omit {name}'
      )
  return dataclasses.replace(config, **saved)


def _read_mixer_fields(folder: pathlib.Path) -> dict[str, Any] | None:
  """Returns the content of a mixer's JSON file, or None without a mixer."""
  known = {m.scope: m for m in mixers.MIXERS.values() if m.scope}
  scopes = [s for s in known if (folder / f'{s}.json').is_file()]
  weights = [s for s in known if (folder / f'{s}.safetensors').is_file()]
  if missing := set(weights) - set(scopes):
    name = missing.pop()
    raise FileNotFoundError(
      f'{folder} has {name}.safetensors but no {name}.json; copy it, too'
    )
  if not scopes:
    return None
  if len(scopes) > 1:
    raise ValueError(
      f'{folder} has the weights of {len(scopes)} mixers,'
      f' {" and ".join(scopes)}; keep the files of one'
    )
  path = folder / f'{scopes[0]}.json'
  found = model_format.read_object(path)
  fields = _mixer_fields(known[scopes[0]])
  added = {k: v for k, v in dit.ADDED_FIELDS.items() if k in fields}
  found = added | found
  if set(found) != set(fields):
    raise ValueError(f'{path} must have exactly {", ".join(fields)}')
  return found


def _mixer(config: dit.DiTConfig) -> mixer_lib.Mixer:
  return mixers.MIXERS[config.mixer]


def _mixer_fields(mixer: mixer_lib.Mixer) -> tuple[str, ...]:
  """Returns the fields of the config that are stored with the weights."""
  return 'mixer', *mixer.fields, 'gate_init'


def _extension(config: dit.DiTConfig) -> model_format.Extension | None:
  """Returns the files of the mixer and its gates, None without a mixer."""
  mixer = _mixer(config)
  if not mixer.scope:
    return None
  return model_format.Extension(
    name=mixer.scope,
    owns=lambda path: path.startswith(
      (f'layers/seq/{mixer.scope}/', 'layers/seq/gates/')
    ),
    rules=lambda config: reference.mixer_rules(config, _BLOCK),
    init_params=dit.init_params,
    fields=_mixer_fields(mixer),
  )


FORMAT = model_format.ModelFormat(
  name='transformer',
  part='transformer',
  supported=SUPPORTED,
  config_class=dit.DiTConfig,
  class_names=(_CLASS,),
  weights='diffusion_pytorch_model',
  config_from_json=config_from_json,
  config_to_json=config_to_json,
  abstract_params=dit.abstract_params,
  rules=rules,
  config_from_folder=_config_from_folder,
  extension=_extension,
)
save_dit = FORMAT.save


def load_dit(
  folder: str | os.PathLike[str],
  *,
  mixer: str | None = None,
  mini_batch: int | None = None,
  seed: int = 0,
  dtype: Any = None,
  sharding: lazy_params.Placement = None,
) -> tuple[dit.DiTConfig, dict[str, Any]]:
  """Loads a transformer as `ModelFormat.load` does.

  Args:
    folder: Folder of the model, or of a complete one with `transformer`.
    mixer: Name of a mixer that is added, with new parameters, to a model
      without; 'none' omits that of the folder. None loads the model as it is.
    mini_batch: Tokens per mini-batch of new TTT layers; None is the default
      of `DiTConfig`.
    seed: Seed of new parameters.
    dtype: Type of the parameters, see `ModelFormat.load`.
    sharding: Sharding of each parameter, see `ModelFormat.load`.
  """
  return FORMAT.load(
    folder,
    dtype=dtype,
    sharding=sharding,
    seed=seed,
    mixer=mixer,
    mini_batch=mini_batch,
  )
