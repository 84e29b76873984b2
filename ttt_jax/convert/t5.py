"""T5 v1.1's encoder in the layout of transformers."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

from flax import traverse_util

from ttt_jax.convert import lazy_params
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import safetensors_reader
from ttt_jax.convert import safetensors_writer
from ttt_jax.convert.rules import Rule
from ttt_jax.models.text import t5
from ttt_jax.runtime import json_file

WEIGHTS = 'model'

_BLOCK = 'encoder.block.{i}'
_ATTENTION = f'{_BLOCK}.layer.0'
_MLP = f'{_BLOCK}.layer.1'
# Name in config.json -> field of ours.
_FIELDS = {
  'vocab_size': 'vocab_size',
  'd_model': 'width',
  'num_layers': 'num_layers',
  'num_heads': 'num_heads',
  'd_kv': 'head_dim',
  'd_ff': 'mlp_dim',
  'relative_attention_num_buckets': 'num_buckets',
  'relative_attention_max_distance': 'max_distance',
  'layer_norm_epsilon': 'norm_eps',
}
# Configs that are older than these fields mean the default.
_OPTIONAL = ('relative_attention_max_distance',)
# What only one value of is supported: anything else changes the function.
_FIXED = {'model_type': 't5', 'feed_forward_proj': 'gated-gelu'}
# Tensors that the encoder does not need: a second copy of the embedding, and
# the other half of a whole T5.
_UNUSED = ('encoder.embed_tokens.', 'decoder.', 'lm_head.')


def rules(config: t5.T5Config) -> list[Rule]:
  """The table for a model of these sizes."""
  m, h, d = config.width, config.num_heads, config.head_dim
  out = [
    Rule('shared.weight', 'tokens/embedding'),
    # The first layer's table serves all layers.
    Rule(
      'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
      'relative_bias/embedding',
    ),
    Rule(f'{_ATTENTION}.layer_norm.weight', 'layers/attention_norm/scale'),
    Rule(
      f'{_ATTENTION}.SelfAttention.o.weight',
      'layers/out/kernel',
      (1, 2, 0),
      view=(m, h, d),
      shape=(m, h * d),
    ),
    Rule(f'{_MLP}.layer_norm.weight', 'layers/mlp_norm/scale'),
    Rule('encoder.final_layer_norm.weight', 'final_norm/scale'),
  ]
  for ours, theirs in (('query', 'q'), ('key', 'k'), ('value', 'v')):
    out.append(
      Rule(
        f'{_ATTENTION}.SelfAttention.{theirs}.weight',
        f'layers/{ours}/kernel',
        (2, 0, 1),
        view=(h, d, m),
        shape=(h * d, m),
      )
    )
  for ours, theirs in (('gate', 'wi_0'), ('up', 'wi_1'), ('down', 'wo')):
    out.append(
      Rule(
        f'{_MLP}.DenseReluDense.{theirs}.weight',
        f'layers/{ours}/kernel',
        (1, 0),
      )
    )
  return out


def config_from_json(
  found: Mapping[str, Any], what: str, dtype: str = 'float32'
) -> t5.T5Config:
  """The config that a `config.json` holds, computing in `dtype`.

  Raises:
    ValueError: a size is missing, or an option that we do not support.
  """
  for key, value in _FIXED.items():
    if found.get(key) != value:
      raise ValueError(
        f'{what} has {key} = {found.get(key)!r}: only {value!r}, the T5 v1.1'
        ' of CogVideoX, is supported'
      )
  missing = [n for n in _FIELDS if n not in found and n not in _OPTIONAL]
  if missing:
    raise ValueError(f'{what} lacks {", ".join(missing)}')
  fields = {o: found[n] for n, o in _FIELDS.items() if n in found}
  return t5.T5Config(**fields, dtype=dtype)


def config_to_json(config: t5.T5Config) -> dict[str, Any]:
  """The content of `config.json`."""
  return {
    'architectures': ['T5EncoderModel'],
    **_FIXED,
    'is_encoder_decoder': False,
    'use_cache': False,
    'dropout_rate': 0.0,
    'pad_token_id': 0,
    'eos_token_id': 1,
    **{theirs: getattr(config, ours) for theirs, ours in _FIELDS.items()},
  }


def load_t5(
  folder: str | os.PathLike[str],
  *,
  compute_dtype: str = 'float32',
  dtype: Any = None,
  sharding: lazy_params.Sharding | None = None,
) -> tuple[t5.T5Config, dict[str, Any]]:
  """Loads the encoder of a T5 v1.1 from a folder in transformers' layout.

  Args:
    folder: holds `config.json` and safetensors, one file or several with an
      index; or has such a folder called `text_encoder`.
    compute_dtype: of the activations, 'float32' or 'bfloat16'.
    dtype: of the parameters; None keeps that of the files.
    sharding: where each parameter goes, for example
      `functools.partial(sharding.param_sharding, mesh)`: the host then holds
      one tensor at a time. None gives numpy arrays.

  Returns:
    The config and the parameters for `T5Encoder(config)`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the model is not supported, a file is cut short, or config
      and weights do not fit each other.
  """
  folder = safetensors_reader.find_folder(folder, 'text_encoder')
  path = folder / 'config.json'
  config = config_from_json(json_file.read(path), str(path), compute_dtype)
  tensors = safetensors_reader.open_folder(folder, WEIGHTS)
  params = rules_lib.from_source(
    rules(config),
    {k: v for k, v in tensors.items() if not k.startswith(_UNUSED)},
    parameter_shapes(config),
    tensors.name,
    dtype=dtype,
    sharding=sharding,
  )
  return config, params


def save_t5(
  config: t5.T5Config,
  params: Mapping[str, Any],
  folder: str | os.PathLike[str],
  *,
  dtype: Any = None,
  shard_bytes: int = safetensors_writer.SHARD_BYTES,
) -> None:
  """Writes an encoder in transformers' layout.

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


def parameter_shapes(config: t5.T5Config) -> dict[str, tuple[int, ...]]:
  """'/'-joined path -> shape of the model's parameters."""
  flat = traverse_util.flatten_dict(t5.abstract_params(config), sep='/')
  return {path: leaf.shape for path, leaf in flat.items()}
