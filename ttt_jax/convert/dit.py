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

from ttt_jax import json_file
from ttt_jax.convert import dit_config
from ttt_jax.convert import files
from ttt_jax.convert import fresh
from ttt_jax.convert import placing
from ttt_jax.convert import reference
from ttt_jax.convert import table
from ttt_jax.convert import writing
from ttt_jax.convert.table import Rule
from ttt_jax.models import dit

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
    *table.dense('time_embedding.linear_1', 'time_1'),
    *table.dense('time_embedding.linear_2', 'time_2'),
    # A convolution by patches: channels first there, last here.
    Rule(
      'patch_embed.proj.weight',
      'patch/kernel',
      (2, 3, 1, 0),
      view=(m, config.in_channels, p, p),
    ),
    Rule('patch_embed.proj.bias', 'patch/bias'),
    *table.dense('patch_embed.text_proj', 'text'),
    *table.norm('norm_final', 'norm'),
    *table.norm('norm_out.norm', 'final_norm'),
    *table.dense('norm_out.linear', 'final_modulation'),
    *reference.output('proj_out', p, config.out_channels, m),
    *table.dense(f'{_BLOCK}.ff.net.0.proj', 'layers/mlp/up'),
    *table.dense(f'{_BLOCK}.ff.net.2', 'layers/mlp/down'),
  ]
  for ours, theirs in (('seq', 'norm1'), ('mlp', 'norm2')):
    out += table.norm(f'{_BLOCK}.{theirs}.norm', f'layers/{ours}_norm')
    out += table.dense(
      f'{_BLOCK}.{theirs}.linear', f'layers/{ours}_modulation/dense'
    )
  for ours, theirs in zip('qkvo', ('to_q', 'to_k', 'to_v', 'to_out.0')):
    out += table.dense(f'{_BLOCK}.attn1.{theirs}', f'layers/seq/attn/{ours}')
  for name in 'qk':
    out += table.norm(
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
  folder = files.find_folder(folder, 'transformer')
  path = folder / 'config.json'
  found = json_file.read(path)
  if not isinstance(found, dict):
    raise ValueError(f'{path} holds no JSON object')
  config = dit_config.config_from_json(found, str(path))
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
  sharding: placing.Sharding | None = None,
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
  folder = files.find_folder(folder, 'transformer')
  config = load_config(folder, mixer=mixer, mini_batch=mini_batch)
  shapes = {
    path: leaf.shape
    for path, leaf in traverse_util.flatten_dict(
      dit.abstract_params(config), sep='/'
    ).items()
  }
  is_new = lambda path: path.startswith(_NEW)
  tensors = files.open_folder(folder, WEIGHTS)
  params = table.from_source(
    rules(config),
    tensors,
    {path: shape for path, shape in shapes.items() if not is_new(path)},
    tensors.name,
    dtype=dtype,
    sharding=sharding,
  )
  new = {path: shape for path, shape in shapes.items() if is_new(path)}
  if new and (folder / f'{TTT}.json').is_file():
    tensors = files.open_file(folder / f'{TTT}.safetensors')
    more = table.from_source(
      ttt_rules(config),
      tensors,
      new,
      tensors.name,
      dtype=dtype,
      sharding=sharding,
    )
    more = traverse_util.flatten_dict(more, sep='/')
  elif sharding is placing.UNREAD:
    more = fresh.later(config, new, seed)
  else:
    more = new and fresh.draw(config, new, seed, dtype, sharding)
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
  shard_bytes: int = writing.SHARD_BYTES,
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
  content = dit_config.config_to_json(config)
  writing.check_free(folder, WEIGHTS)
  writing.check_free(folder, TTT)
  flat = traverse_util.flatten_dict(params, sep='/')
  new = {path: flat.pop(path) for path in list(flat) if path.startswith(_NEW)}
  nested = lambda flat: traverse_util.unflatten_dict(flat, sep='/')
  if new:
    writing.write_folder(
      folder,
      TTT,
      ttt_rules(config),
      nested(new),
      dtype=dtype,
      shard_bytes=math.inf,
    )
    writing.write_json(
      folder / f'{TTT}.json',
      {name: getattr(config, name) for name in _TTT_FIELDS},
    )
  writing.write_folder(
    folder,
    WEIGHTS,
    rules(config),
    nested(flat),
    dtype=dtype,
    shard_bytes=shard_bytes,
    config=content,
  )
