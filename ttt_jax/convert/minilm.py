"""BERT and MiniLM in the layout of transformers: config.json + safetensors."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

import jax
import jax.numpy as jnp

from ttt_jax.convert import model_format
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert.rules import Rule
from ttt_jax.models.text import minilm

_LAYER = 'encoder.layer.{i}'
_FIELDS = {
  'vocab_size': ('vocab_size', model_format.REQUIRED),
  'hidden_size': ('width', model_format.REQUIRED),
  'num_hidden_layers': ('num_layers', model_format.REQUIRED),
  'num_attention_heads': ('num_heads', model_format.REQUIRED),
  'intermediate_size': ('mlp_dim', model_format.REQUIRED),
  'max_position_embeddings': ('max_length', model_format.REQUIRED),
  'type_vocab_size': ('type_vocab_size', model_format.REQUIRED),
  'layer_norm_eps': ('norm_eps', model_format.REQUIRED),
}
_FIXED = {'hidden_act': 'gelu', 'position_embedding_type': 'absolute'}
# The numbers 0, 1, 2, ..., and the head that embeds a sentence in one vector.
_UNUSED = ('embeddings.position_ids', 'pooler.')


def rules(config: minilm.MiniLMConfig) -> list[Rule]:
  """Returns the rules for a model of these sizes."""
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


def config_from_json(
  found: Mapping[str, Any], path: str
) -> minilm.MiniLMConfig:
  """Returns the config that a `config.json` contains.

  Raises:
    ValueError: a size is missing, or an option is not supported.
  """
  model_format.check_fixed(found, _FIXED, path)
  fields = model_format.read_fields(found, _FIELDS, path, minilm.MiniLMConfig)
  return model_format.construct(minilm.MiniLMConfig, path, **fields)


def config_to_json(config: minilm.MiniLMConfig) -> dict[str, Any]:
  """Returns the content of `config.json`."""
  return {
    'architectures': ['BertModel'],
    'model_type': 'bert',
    **_FIXED,
    **model_format.write_fields(config, _FIELDS),
  }


def _rename(key: str) -> str | None:
  # Models with a head of their own have the encoder under 'bert.'.
  key = key.removeprefix('bert.')
  return None if key.startswith(_UNUSED) else key


FORMAT = model_format.ModelFormat(
  name='bert',
  part='text_encoder',
  config_class=minilm.MiniLMConfig,
  class_names=('BertModel',),
  weights='model',
  config_from_json=config_from_json,
  config_to_json=config_to_json,
  abstract_params=minilm.abstract_params,
  rules=rules,
  rename=_rename,
)


def load_minilm(
  folder: str | os.PathLike[str],
) -> tuple[minilm.MiniLMConfig, dict[str, Any]]:
  """Loads a BERT encoder in float32 as `ModelFormat.load` does."""
  config, params = FORMAT.load(folder, dtype=jnp.float32)
  return config, jax.tree.map(jnp.asarray, params)
