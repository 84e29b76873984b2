"""CLIP's text encoder in the layout of transformers."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any, TypeVar

from flax import traverse_util

from ttt_jax.convert import lazy_params
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert import safetensors_reader
from ttt_jax.convert import safetensors_writer
from ttt_jax.convert import stable_diffusion as sd
from ttt_jax.convert.rules import Rule
from ttt_jax.models.text import clip

WEIGHTS = 'model'

Config = TypeVar('Config', bound=clip.TowerConfig)

# Files of before 2026 have it before every name; all versions read it.
_PREFIX = 'text_model.'
# Not a weight: the numbers from 0 on, in old files.
_UNUSED = 'embeddings.position_ids'
_CLASS = 'CLIPTextModel'
# Name in config.json -> field of ours; those of any tower, and of the text's.
TOWER_FIELDS = {
  'hidden_size': 'width',
  'num_hidden_layers': 'num_layers',
  'num_attention_heads': 'num_heads',
  'intermediate_size': 'mlp_dim',
}
TEXT_FIELDS = TOWER_FIELDS | {
  'vocab_size': 'vocab_size',
  'max_position_embeddings': 'max_length',
}
_PARTS = (
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
  """The rules of a tower's blocks, whose names begin so there and here."""
  out = []
  for theirs, ours in _PARTS:
    rules = rules_lib.norm if ours.endswith('norm') else rules_lib.dense
    out += rules(
      f'{source}encoder.layers.{{i}}.{theirs}', f'{target}layers/{ours}'
    )
  return out


def text_rules(source: str = '', target: str = '') -> list[Rule]:
  """The table of the text tower, whose names begin so there and here."""
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


RULES = text_rules()
_WRITTEN = text_rules(_PREFIX)


def config_from_json(
  found: Mapping[str, Any], what: str, dtype: str = 'float32'
) -> clip.CLIPTextConfig:
  """The config that a `config.json` holds, computing in `dtype`.

  Raises:
    ValueError: another model, an activation that we do not have, or sizes
      that cannot be.
  """
  names = found.get('architectures') or [_CLASS]
  kind = found.get('model_type')
  if names != [_CLASS] or kind != 'clip_text_model':
    raise ValueError(
      f'{what} describes {", ".join(map(str, names))} of model_type {kind!r}:'
      f' only {_CLASS} of clip_text_model can be loaded; {sd.SUPPORTED}'
    )
  return tower_from_json(clip.CLIPTextConfig, TEXT_FIELDS, found, what, dtype)


def tower_from_json(
  config: type[Config],
  fields: Mapping[str, str],
  found: Mapping[str, Any],
  what: str,
  dtype: str = 'float32',
) -> Config:
  """The config of a tower.

  Args:
    config: its class.
    fields: name there -> name here, of its sizes.
    found: what a file says of it.
    what: name of the file.
    dtype: compute type.

  Raises:
    ValueError: an activation that we do not have, or sizes that cannot be.
  """
  sd.check_sizes(found, fields, what)
  try:
    return config(
      **{ours: found[theirs] for theirs, ours in fields.items()},
      activation=found.get('hidden_act', 'quick_gelu'),
      norm_eps=found.get('layer_norm_eps', 1e-5),
      dtype=dtype,
    )
  except ValueError as e:
    raise ValueError(f'{what}: {e}') from e


def config_to_json(config: clip.CLIPTextConfig) -> dict[str, Any]:
  """The content of `config.json`."""
  return {
    'architectures': [_CLASS],
    'model_type': 'clip_text_model',
    **{theirs: getattr(config, ours) for theirs, ours in TEXT_FIELDS.items()},
    'hidden_act': config.activation,
    'layer_norm_eps': config.norm_eps,
  }


def load_clip(
  folder: str | os.PathLike[str],
  *,
  compute_dtype: str = 'float32',
  dtype: Any = None,
  sharding: lazy_params.Sharding | None = None,
) -> tuple[clip.CLIPTextConfig, dict[str, Any]]:
  """Loads the text encoder of Stable Diffusion 1 or 2.

  Args:
    folder: holds `config.json` and safetensors, one file or several with an
      index; or has such a folder called `text_encoder`.
    compute_dtype: of the activations, 'float32' or 'bfloat16'.
    dtype: of the parameters; None keeps that of the files.
    sharding: where each parameter goes; None gives numpy arrays.

  Returns:
    The config and the parameters for `CLIPTextEncoder(config)`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the model is not supported, a file is cut short, or config
      and weights do not fit each other.
  """
  folder = sd.find_part(folder, 'text_encoder')
  path = folder / 'config.json'
  config = config_from_json(sd.read_config(path), str(path), compute_dtype)
  tensors = safetensors_reader.open_folder(folder, WEIGHTS)
  named = {key.removeprefix(_PREFIX): value for key, value in tensors.items()}
  named.pop(_UNUSED, None)
  params = rules_lib.from_source(
    RULES,
    named,
    parameter_shapes(config),
    tensors.name,
    dtype=dtype,
    sharding=sharding,
  )
  return config, params


def save_clip(
  config: clip.CLIPTextConfig,
  params: Mapping[str, Any],
  folder: str | os.PathLike[str],
  *,
  dtype: Any = None,
  shard_bytes: int = safetensors_writer.SHARD_BYTES,
) -> None:
  """Writes a text encoder in transformers' layout.

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
    _WRITTEN,
    params,
    dtype=dtype,
    shard_bytes=shard_bytes,
    config=config_to_json(config),
  )


def parameter_shapes(
  config: clip.CLIPTextConfig,
) -> dict[str, tuple[int, ...]]:
  """'/'-joined path -> shape of the model's parameters."""
  flat = traverse_util.flatten_dict(clip.abstract_params(config), sep='/')
  return {path: leaf.shape for path, leaf in flat.items()}
