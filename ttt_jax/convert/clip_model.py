"""Both towers of CLIP in the layout of transformers' CLIPModel."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

from ttt_jax.convert import clip as convert_clip
from ttt_jax.convert import lazy_params
from ttt_jax.convert import model_format
from ttt_jax.convert import rules
from ttt_jax.convert.rules import Rule
from ttt_jax.models import clip
from ttt_jax.models.text import clip as text_clip
from ttt_jax.runtime import schema

_CLASS = 'CLIPModel'
_VISION_FIELDS = convert_clip.TOWER_FIELDS | {
  'image_size': ('image_size', model_format.REQUIRED),
  'patch_size': ('patch_size', model_format.REQUIRED),
}
# Values of fields that a file omits.
_TEXT_DEFAULTS = dict(
  vocab_size=49408,
  hidden_size=512,
  intermediate_size=2048,
  num_hidden_layers=12,
  num_attention_heads=8,
  max_position_embeddings=77,
)
_VISION_DEFAULTS = dict(
  hidden_size=768,
  intermediate_size=3072,
  num_hidden_layers=12,
  num_attention_heads=12,
  image_size=224,
  patch_size=32,
)
_VISION = 'vision_model.'

RULES = [
  *convert_clip.text_rules('text_model.', 'text/'),
  Rule(f'{_VISION}embeddings.class_embedding', 'vision/class_token'),
  Rule(
    f'{_VISION}embeddings.patch_embedding.weight',
    'vision/patches/kernel',
    rules.CONV2D,
  ),
  Rule(
    f'{_VISION}embeddings.position_embedding.weight',
    'vision/positions/embedding',
  ),
  # The published name is spelled like this.
  *rules.norm(f'{_VISION}pre_layrnorm', 'vision/first_norm'),
  *rules.norm(f'{_VISION}post_layernorm', 'vision/final_norm'),
  *convert_clip.block_rules(_VISION, 'vision/'),
  Rule('text_projection.weight', 'text_projection/kernel', (1, 0)),
  Rule('visual_projection.weight', 'vision_projection/kernel', (1, 0)),
]


def config_from_json(found: Mapping[str, Any], path: str) -> clip.CLIPConfig:
  """Returns the config that a `config.json` contains.

  Raises:
    ValueError: another model, an unknown activation, or invalid sizes.
  """
  if found.get('model_type') != 'clip':
    raise ValueError(
      f'{path} has model_type {schema.show(found.get("model_type"))}; both'
      f" towers of CLIP are needed, a {_CLASS} of model_type 'clip' such as"
      ' openai/clip-vit-large-patch14'
    )
  text, vision = (
    schema.convert(found.get(name) or {}, dict[str, Any], f'{path}: {name}')
    for name in ('text_config', 'vision_config')
  )
  vision = _VISION_DEFAULTS | vision
  model_format.check_fixed(vision, {'num_channels': 3}, path)
  towers = {}
  for name, config_class, fields, values in (
    (
      'text',
      text_clip.CLIPTextConfig,
      convert_clip.TEXT_FIELDS,
      _TEXT_DEFAULTS | text,
    ),
    ('vision', clip.CLIPVisionConfig, _VISION_FIELDS, vision),
  ):
    where = f'{name}_config of {path}'
    values = model_format.read_fields(values, fields, where, config_class)
    towers[name] = model_format.construct(config_class, where, **values)
  size = {'projection_dim': ('projection_dim', 512)}
  return clip.CLIPConfig(
    **towers, **model_format.read_fields(found, size, path, clip.CLIPConfig)
  )


FORMAT = model_format.ModelFormat(
  name='clip_model',
  part='clip',
  config_class=clip.CLIPConfig,
  class_names=(_CLASS,),
  weights='model',
  config_from_json=config_from_json,
  abstract_params=clip.abstract_params,
  rules=lambda config: RULES,
  # The scale of the logits in training, and the numbers from 0 on in old
  # files.
  rename=model_format.ignore(
    'logit_scale',
    'text_model.embeddings.position_ids',
    'vision_model.embeddings.position_ids',
  ),
)


def load_clip_model(
  folder: str | os.PathLike[str],
  *,
  dtype: Any = None,
  sharding: lazy_params.Placement = None,
) -> tuple[clip.CLIPConfig, dict[str, Any]]:
  """Loads both towers of CLIP as `ModelFormat.load` does."""
  return FORMAT.load(folder, dtype=dtype, sharding=sharding)
