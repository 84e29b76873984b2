"""BERT and MiniLM in the layout of transformers: config.json + safetensors."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import safetensors_reader
from ttt_jax.convert.rules import Rule
from ttt_jax.models.text import minilm

WEIGHTS = 'model.safetensors'

_LAYER = 'encoder.layer.{i}'
# Name in config.json -> field of ours.
_FIELDS = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'width',
  'num_hidden_layers': 'num_layers',
  'num_attention_heads': 'num_heads',
  'intermediate_size': 'mlp_dim',
  'max_position_embeddings': 'max_length',
  'type_vocab_size': 'type_vocab_size',
  'layer_norm_eps': 'norm_eps',
}
# What only one value of is supported: anything else changes the function.
_FIXED = {'hidden_act': 'gelu', 'position_embedding_type': 'absolute'}
# Tensors of the file that token states do not need: 0, 1, 2, ... and the head
# that makes one vector of a sentence.
_UNUSED = ('embeddings.position_ids', 'pooler.')


def rules(config: minilm.MiniLMConfig) -> list[Rule]:
  """The table for a model of these sizes."""
  m, h = config.width, config.num_heads
  d = m // h
  out = [
    Rule('embeddings.word_embeddings.weight', 'tokens/embedding'),
    Rule('embeddings.position_embeddings.weight', 'positions/embedding'),
    Rule('embeddings.token_type_embeddings.weight', 'types/embedding'),
    *rules_lib.norm('embeddings.LayerNorm', 'norm'),
    Rule(
      f'{_LAYER}.attention.output.dense.weight',
      'layers/out/kernel',
      (1, 2, 0),
      view=(m, h, d),
      shape=(m, m),
    ),
    Rule(f'{_LAYER}.attention.output.dense.bias', 'layers/out/bias'),
    *rules_lib.norm(
      f'{_LAYER}.attention.output.LayerNorm', 'layers/attention_norm'
    ),
    *rules_lib.dense(f'{_LAYER}.intermediate.dense', 'layers/up'),
    *rules_lib.dense(f'{_LAYER}.output.dense', 'layers/down'),
    *rules_lib.norm(f'{_LAYER}.output.LayerNorm', 'layers/mlp_norm'),
  ]
  for name in ('query', 'key', 'value'):
    source = f'{_LAYER}.attention.self.{name}'
    out += [
      Rule(
        f'{source}.weight',
        f'layers/{name}/kernel',
        (2, 0, 1),
        view=(h, d, m),
        shape=(m, m),
      ),
      Rule(
        f'{source}.bias', f'layers/{name}/bias', (0, 1), view=(h, d), shape=(m,)
      ),
    ]
  return out


def config_from_json(found: dict[str, Any], what: str) -> minilm.MiniLMConfig:
  """The config that a `config.json` holds.

  Raises:
    ValueError: a size is missing, or an option that we do not support.
  """
  for key, value in _FIXED.items():
    if found.get(key, value) != value:
      raise ValueError(
        f'{what} has {key} = {found[key]!r}: only {value!r} is supported'
      )
  missing = [name for name in _FIELDS if name not in found]
  if missing:
    raise ValueError(f'{what} lacks {", ".join(missing)}')
  return minilm.MiniLMConfig(**{o: found[n] for n, o in _FIELDS.items()})


def load_minilm(
  folder: str | os.PathLike[str],
) -> tuple[minilm.MiniLMConfig, dict[str, Any]]:
  """Loads a BERT encoder.

  Args:
    folder: holds `config.json` and `model.safetensors`.

  Returns:
    The config and float32 parameters for `MiniLMEncoder(config)`.

  Raises:
    FileNotFoundError: one of the two files is missing.
    ValueError: the config is not supported, the weights are cut short, or
      the two do not fit each other.
  """
  folder = pathlib.Path(folder)
  path = folder / 'config.json'
  config = config_from_json(json.loads(path.read_text()), str(path))
  tensors = {
    # Models with a head of their own keep the encoder under 'bert.'.
    key.removeprefix('bert.'): tensor
    for key, tensor in safetensors_reader.open_file(folder / WEIGHTS).items()
  }
  tensors = {k: v for k, v in tensors.items() if not k.startswith(_UNUSED)}
  params = rules_lib.from_source(
    rules(config),
    tensors,
    parameter_shapes(config),
    str(folder / WEIGHTS),
    dtype=jnp.float32,
  )
  return config, jax.tree.map(jnp.asarray, params)


def parameter_shapes(
  config: minilm.MiniLMConfig,
) -> dict[str, tuple[int, ...]]:
  """'/'-joined path -> shape of the model's parameters."""
  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  tree = jax.eval_shape(
    minilm.MiniLMEncoder(config).init, jax.random.key(0), ids, ids
  )
  flat = traverse_util.flatten_dict(tree['params'], sep='/')
  return {path: value.shape for path, value in flat.items()}
