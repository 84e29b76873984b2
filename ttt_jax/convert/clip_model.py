"""Both towers of CLIP in the layout of transformers' CLIPModel."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

from flax import traverse_util

from ttt_jax.convert import clip as convert_clip
from ttt_jax.convert import lazy_params
from ttt_jax.convert import rules
from ttt_jax.convert import safetensors_reader
from ttt_jax.convert import stable_diffusion as sd
from ttt_jax.convert.rules import Rule
from ttt_jax.models import clip
from ttt_jax.models.text import clip as text_clip

_CLASS = 'CLIPModel'
_VISION_FIELDS = convert_clip.TOWER_FIELDS | {
  'image_size': 'image_size',
  'patch_size': 'patch_size',
}
# What a file means that leaves one of them out.
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
# No weights of a tower: the scale of training's logits, and the numbers from 0
# on in old files.
_UNUSED = (
  'logit_scale',
  'text_model.embeddings.position_ids',
  'vision_model.embeddings.position_ids',
)
_VISION = 'vision_model.'

RULES = [
  *convert_clip.text_rules('text_model.', 'text/'),
  Rule(f'{_VISION}embeddings.class_embedding', 'vision/class_token'),
  Rule(
    f'{_VISION}embeddings.patch_embedding.weight',
    'vision/patches/kernel',
    (2, 3, 1, 0),
  ),
  Rule(
    f'{_VISION}embeddings.position_embedding.weight',
    'vision/positions/embedding',
  ),
  # Spelled so.
  *rules.norm(f'{_VISION}pre_layrnorm', 'vision/first_norm'),
  *rules.norm(f'{_VISION}post_layernorm', 'vision/final_norm'),
  *convert_clip.block_rules(_VISION, 'vision/'),
  Rule('text_projection.weight', 'text_projection/kernel', (1, 0)),
  Rule('visual_projection.weight', 'vision_projection/kernel', (1, 0)),
]


def config_from_json(found: Mapping[str, Any], what: str) -> clip.CLIPConfig:
  """The config that a `config.json` holds.

  Raises:
    ValueError: another model, an activation that we do not have, or sizes
      that cannot be.
  """
  if found.get('model_type') != 'clip':
    raise ValueError(
      f'{what} has model_type {found.get("model_type")!r}; both towers of'
      f" CLIP are needed, a {_CLASS} of model_type 'clip' such as"
      ' openai/clip-vit-large-patch14'
    )
  text = _TEXT_DEFAULTS | (found.get('text_config') or {})
  vision = _VISION_DEFAULTS | (found.get('vision_config') or {})
  sd.check_fixed(vision, {'num_channels': 3}, what)
  size = {'projection_dim': found.get('projection_dim', 512)}
  sd.check_sizes(size, size, what)
  return clip.CLIPConfig(
    convert_clip.tower_from_json(
      text_clip.CLIPTextConfig,
      convert_clip.TEXT_FIELDS,
      text,
      f'text_config of {what}',
    ),
    convert_clip.tower_from_json(
      clip.CLIPVisionConfig,
      _VISION_FIELDS,
      vision,
      f'vision_config of {what}',
    ),
    **size,
  )


def load_clip_model(
  folder: str | os.PathLike[str],
  *,
  dtype: Any = None,
  sharding: lazy_params.Sharding | None = None,
) -> tuple[clip.CLIPConfig, dict[str, Any]]:
  """Loads both towers of CLIP.

  Args:
    folder: holds `config.json` and safetensors, one file or several with an
      index.
    dtype: of the parameters; None keeps that of the files.
    sharding: where each parameter goes; None gives numpy arrays.

  Returns:
    The config and the parameters for `CLIP(config)`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: another model, a file is cut short, or config and weights do
      not fit each other.
  """
  folder = safetensors_reader.find_folder(folder, 'clip')
  path = folder / 'config.json'
  config = config_from_json(sd.read_config(path), str(path))
  tensors = safetensors_reader.open_folder(folder, convert_clip.WEIGHTS)
  params = rules.from_source(
    RULES,
    {key: value for key, value in tensors.items() if key not in _UNUSED},
    parameter_shapes(config),
    tensors.name,
    dtype=dtype,
    sharding=sharding,
  )
  return config, params


def parameter_shapes(config: clip.CLIPConfig) -> dict[str, tuple[int, ...]]:
  """'/'-joined path -> shape of the model's parameters."""
  flat = traverse_util.flatten_dict(clip.abstract_params(config), sep='/')
  return {path: leaf.shape for path, leaf in flat.items()}
