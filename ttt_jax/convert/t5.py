"""T5 v1.1's encoder in the layout of transformers."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

from ttt_jax.convert import lazy_params
from ttt_jax.convert import model_format
from ttt_jax.convert.rules import Rule
from ttt_jax.models.text import t5

_BLOCK = 'encoder.block.{i}'
_ATTENTION = f'{_BLOCK}.layer.0'
_MLP = f'{_BLOCK}.layer.1'
# Old configs lack the maximal distance and mean the default.
_FIELDS = {
  'vocab_size': ('vocab_size', model_format.REQUIRED),
  'd_model': ('width', model_format.REQUIRED),
  'num_layers': ('num_layers', model_format.REQUIRED),
  'num_heads': ('num_heads', model_format.REQUIRED),
  'd_kv': ('head_dim', model_format.REQUIRED),
  'd_ff': ('mlp_dim', model_format.REQUIRED),
  'relative_attention_num_buckets': ('num_buckets', model_format.REQUIRED),
  'relative_attention_max_distance': ('max_distance', 128),
  'layer_norm_epsilon': ('norm_eps', model_format.REQUIRED),
}
_FIXED = {'model_type': 't5', 'feed_forward_proj': 'gated-gelu'}


def rules(config: t5.T5Config) -> list[Rule]:
  """Returns the rules for a model of these sizes."""
  m, h, d = config.width, config.num_heads, config.head_dim
  out = [
    Rule('shared.weight', 'tokens/embedding'),
    # A second copy, or the only one.
    Rule('encoder.embed_tokens.weight', 'tokens/embedding'),
    # All layers use the table of the first layer.
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
  found: Mapping[str, Any], path: str, compute_dtype: str = 'float32'
) -> t5.T5Config:
  """Returns the config that a `config.json` contains.

  Raises:
    ValueError: a size is missing, or an option is not supported.
  """
  model_format.check_fixed(found, _FIXED, path, required=True)
  fields = model_format.read_fields(found, _FIELDS, path, t5.T5Config)
  return model_format.construct(
    t5.T5Config, path, **fields, dtype=compute_dtype
  )


def config_to_json(config: t5.T5Config) -> dict[str, Any]:
  """Returns the content of `config.json`."""
  return {
    'architectures': ['T5EncoderModel'],
    **_FIXED,
    'is_encoder_decoder': False,
    'use_cache': False,
    'dropout_rate': 0.0,
    'pad_token_id': 0,
    'eos_token_id': 1,
    **model_format.write_fields(config, _FIELDS),
  }


FORMAT = model_format.ModelFormat(
  name='text_encoder',
  part='text_encoder',
  config_class=t5.T5Config,
  class_names=('T5EncoderModel',),
  weights='model',
  config_from_json=config_from_json,
  config_to_json=config_to_json,
  abstract_params=t5.abstract_params,
  rules=rules,
  # The other half of a complete T5.
  rename=model_format.ignore('decoder.', 'lm_head.'),
)
save_t5 = FORMAT.save


def load_t5(
  folder: str | os.PathLike[str],
  *,
  compute_dtype: str = 'float32',
  dtype: Any = None,
  sharding: lazy_params.Placement = None,
) -> tuple[t5.T5Config, dict[str, Any]]:
  """Loads the encoder of a T5 v1.1 as `ModelFormat.load` does.

  The activations have the type `compute_dtype`, 'float32' or 'bfloat16'.
  """
  return FORMAT.load(
    folder, dtype=dtype, sharding=sharding, compute_dtype=compute_dtype
  )
