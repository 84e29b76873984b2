"""CLIP's text encoder in the layout of transformers."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

from ttt_jax.convert import lazy_params
from ttt_jax.convert import model_format
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import stable_diffusion as sd
from ttt_jax.convert.rules import Rule
from ttt_jax.models.text import clip
from ttt_jax.runtime import schema

# Precedes every name in files before 2026; all versions read it.
_PREFIX = 'text_model.'
# The numbers from 0 on, in old files.
_POSITION_IDS = f'{_PREFIX}embeddings.position_ids'
_CLASS = 'CLIPTextModel'
# Fields of both towers, and of the text tower.
TOWER_FIELDS = {
  'hidden_size': ('width', model_format.REQUIRED),
  'num_hidden_layers': ('num_layers', model_format.REQUIRED),
  'num_attention_heads': ('num_heads', model_format.REQUIRED),
  'intermediate_size': ('mlp_dim', model_format.REQUIRED),
  'hidden_act': ('activation', 'quick_gelu'),
  'layer_norm_eps': ('norm_eps', 1e-5),
}
TEXT_FIELDS = TOWER_FIELDS | {
  'vocab_size': ('vocab_size', model_format.REQUIRED),
  'max_position_embeddings': ('max_length', model_format.REQUIRED),
}
_LAYERS = (
  ('layer_norm1', 'attention_norm'),
  ('layer_norm2', 'mlp_norm'),
  ('self_attn.q_proj', 'query'),
  ('self_attn.k_proj', 'key'),
  ('self_attn.v_proj', 'value'),
  ('self_attn.out_proj', 'out'),
  ('mlp.fc1', 'up'),
  ('mlp.fc2', 'down'),
)


def block_rules(source: str = '', target: str = '') -> list[Rule]:
  """Returns the rules of a tower's blocks, given both prefixes of the names."""
  out = []
  for theirs, ours in _LAYERS:
    rules = rules_lib.norm if ours.endswith('norm') else rules_lib.dense
    out += rules(
      f'{source}encoder.layers.{{i}}.{theirs}', f'{target}layers/{ours}'
    )
  return out


def text_rules(source: str = '', target: str = '') -> list[Rule]:
  """Returns the rules of the text tower, given both prefixes of the names."""
  return [
    Rule(
      f'{source}embeddings.token_embedding.weight', f'{target}tokens/embedding'
    ),
    Rule(
      f'{source}embeddings.position_embedding.weight',
      f'{target}positions/embedding',
    ),
    *rules_lib.norm(f'{source}final_layer_norm', f'{target}final_norm'),
    *block_rules(source, target),
  ]


def config_from_json(
  found: Mapping[str, Any], path: str, compute_dtype: str = 'float32'
) -> clip.CLIPTextConfig:
  """Returns the config that a `config.json` contains.

  Raises:
    ValueError: another model, an unknown activation, or invalid sizes.
  """
  names = found.get('architectures') or [_CLASS]
  kind = found.get('model_type')
  if names != [_CLASS] or kind != 'clip_text_model':
    raise ValueError(
      f'{path} describes {schema.show(names)} of model_type'
      f' {schema.show(kind)}: only {_CLASS} of clip_text_model can be loaded;'
      f' {sd.SUPPORTED}'
    )
  fields = model_format.read_fields(
    found, TEXT_FIELDS, path, clip.CLIPTextConfig
  )
  return model_format.construct(
    clip.CLIPTextConfig, path, **fields, dtype=compute_dtype
  )


def config_to_json(config: clip.CLIPTextConfig) -> dict[str, Any]:
  """Returns the content of `config.json`."""
  return {
    'architectures': [_CLASS],
    'model_type': 'clip_text_model',
    **model_format.write_fields(config, TEXT_FIELDS),
  }


def _rename(key: str) -> str | None:
  key = _PREFIX + key.removeprefix(_PREFIX)
  return None if key == _POSITION_IDS else key


FORMAT = model_format.ModelFormat(
  name='clip',
  part='text_encoder',
  config_class=clip.CLIPTextConfig,
  class_names=(_CLASS,),
  weights='model',
  config_from_json=config_from_json,
  config_to_json=config_to_json,
  abstract_params=clip.abstract_params,
  rules=lambda config: text_rules(_PREFIX),
  rename=_rename,
  supported=sd.SUPPORTED,
)
save_clip = FORMAT.save


def load_clip(
  folder: str | os.PathLike[str],
  *,
  compute_dtype: str = 'float32',
  dtype: Any = None,
  sharding: lazy_params.Placement = None,
) -> tuple[clip.CLIPTextConfig, dict[str, Any]]:
  """Loads the text encoder of Stable Diffusion as `ModelFormat.load` does.

  The activations have the type `compute_dtype`, 'float32' or 'bfloat16'.
  """
  return FORMAT.load(
    folder, dtype=dtype, sharding=sharding, compute_dtype=compute_dtype
  )
