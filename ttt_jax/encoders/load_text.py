"""Loads the encoder of texts that a folder holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import hashlib
import os
import pathlib
from typing import Any

import jax
import numpy as np

from ttt_jax import sharding
from ttt_jax.convert import clip as convert_clip
from ttt_jax.convert import minilm as convert_minilm
from ttt_jax.convert import safetensors_reader
from ttt_jax.convert import t5 as convert_t5
from ttt_jax.encoders import bert_tokenizer
from ttt_jax.encoders import clip_tokenizer
from ttt_jax.encoders import t5_tokenizer
from ttt_jax.encoders import text_encoder
from ttt_jax.models.text import clip
from ttt_jax.models.text import minilm
from ttt_jax.models.text import t5
from ttt_jax.runtime import json_file

TextEncoder = text_encoder.TextEncoder

_CLIP = 'clip_text_model'


def load_text_encoder(
  folder: str | os.PathLike[str],
  text_length: int,
  *,
  dtype: str = 'float32',
  mesh: jax.sharding.Mesh | None = None,
) -> TextEncoder:
  """Loads the encoder that a folder in the layout of transformers holds.

  Args:
    folder: with config.json and model.safetensors (or several files with an
      index); or a whole model with a folder `text_encoder`. The tokenizer is
      there, too, or in the folder `tokenizer` beside.
    text_length: tokens a text, L.
    dtype: of the weights and activations of a T5, of the activations of a
      CLIP, 'float32' or 'bfloat16'. BERT is always float32.
    mesh: of `sharding.make_mesh`, over which a T5 is split; None is the
      default device.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a kind of model that is not supported, damaged files, or a
      length that the model does not have.
  """
  folder = safetensors_reader.find_folder(folder, 'text_encoder')
  kind = _config(folder)['model_type']
  if kind == 'bert':
    return _load_bert(folder, text_length)
  if kind == _CLIP:
    return _load_clip(folder, text_length, dtype)
  return _load_t5(folder, text_length, dtype, mesh)


def load_tokenizer(
  folder: str | os.PathLike[str],
) -> tuple[Callable[[str], list[int]], tuple[int, int]]:
  """The tokenizer of `load_text_encoder`'s encoder, without its weights.

  Returns:
    text -> ids, and the rows of '<start_scene>' and '<end_scene>', none of
    CLIP.

  Raises:
    FileNotFoundError, ValueError: as `load_text_encoder`.
  """
  folder = safetensors_reader.find_folder(folder, 'text_encoder')
  config = _config(folder)
  if config['model_type'] == 'bert':
    return bert_tokenizer.load_tokenizer(folder / 'tokenizer.json')
  if config['model_type'] == _CLIP:
    return clip_tokenizer.find_tokenizer(folder).tokens, ()
  sizes = convert_t5.config_from_json(config, str(folder / 'config.json'))
  tokenizer = t5_tokenizer.find_tokenizer(folder, sizes.vocab_size)
  return tokenizer, tokenizer.scene_token_ids


def _config(folder: pathlib.Path) -> dict[str, Any]:
  """The config.json of a model that we have."""
  path = folder / 'config.json'
  config = json_file.read(path)
  if not isinstance(config, dict):
    raise ValueError(f'{path} is no JSON object')
  if config.get('model_type') not in ('bert', _CLIP, 't5'):
    raise ValueError(
      f'{path} has model_type {config.get("model_type")!r}; supported are'
      f" 'bert', {_CLIP!r} and 't5'"
    )
  return config


def _load_bert(folder: pathlib.Path, text_length: int) -> TextEncoder:
  config, params = convert_minilm.load_minilm(folder)
  if not 3 <= text_length <= config.max_length:
    raise ValueError(
      f'the text length is {text_length}; {folder} has positions for 3 to'
      f' {config.max_length}'
    )
  module = minilm.MiniLMEncoder(config)
  apply = jax.jit(lambda p, ids, mask: module.apply({'params': p}, ids, mask))
  path = folder / 'tokenizer.json'
  tokenize, scene_token_ids = bert_tokenizer.load_tokenizer(path)
  return TextEncoder(
    tokenize,
    lambda ids, mask: apply(params, ids, mask),
    identity=_identity(
      'bert', _digest(folder / convert_minilm.WEIGHTS), _digest(path)
    ),
    width=config.width,
    text_length=text_length,
    scene_token_ids=scene_token_ids,
  )


def _load_clip(
  folder: pathlib.Path, text_length: int, dtype: str
) -> TextEncoder:
  config, params = convert_clip.load_clip(
    folder, compute_dtype=dtype, dtype=np.float32
  )
  if not 3 <= text_length <= config.max_length:
    raise ValueError(
      f'the text length is {text_length}; {folder} has positions for 3 to'
      f' {config.max_length}'
    )
  tokenizer = clip_tokenizer.find_tokenizer(folder)
  module = clip.CLIPTextEncoder(config)
  apply = jax.jit(lambda p, ids: module.apply({'params': p}, ids))
  weights = safetensors_reader.open_folder(folder, convert_clip.WEIGHTS)
  return TextEncoder(
    tokenizer.tokens,
    lambda ids, mask: apply(params, ids),
    identity=_identity(
      'clip' if dtype == 'float32' else f'clip-{dtype}',
      _digest_tensors(weights),
      *(
        _digest(tokenizer.path / name)
        for name in (clip_tokenizer.VOCABULARY, clip_tokenizer.MERGES)
      ),
    ),
    width=config.width,
    text_length=text_length,
    # No row stands for the beginning or the end of a scene.
    scene_token_ids=(),
    pad_id=tokenizer.pad_id,
    # Stable Diffusion was trained to read the padding.
    keep_padding=True,
  )


def _load_t5(
  folder: pathlib.Path,
  text_length: int,
  dtype: str,
  mesh: jax.sharding.Mesh | None,
) -> TextEncoder:
  if text_length < 1:
    raise ValueError(
      f'the text length is {text_length}; it must be 1 or more, CogVideoX'
      ' has 226'
    )
  sizes = convert_t5.config_from_json(
    _config(folder), str(folder / 'config.json'), dtype
  )
  # Before the weights, which may take minutes.
  tokenizer = t5_tokenizer.find_tokenizer(folder, sizes.vocab_size)
  if mesh is None:
    batch = text_encoder.BATCH
    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    place, ids_place, out_place = lambda leaf: where, where, where
  else:
    data = mesh.shape['data']
    batch = -(-text_encoder.BATCH // data) * data
    place = functools.partial(sharding.param_sharding, mesh)
    ids_place = sharding.batch_sharding(mesh)
    out_place = sharding.replicated(mesh)
  config, params = convert_t5.load_t5(
    folder, compute_dtype=dtype, dtype=dtype, sharding=place
  )
  module = t5.T5Encoder(config, sharding.Layout(mesh))
  apply = jax.jit(
    lambda p, ids: module.apply({'params': p}, ids), out_shardings=out_place
  )
  kind = 't5' if dtype == 'float32' else f't5-{dtype}'
  weights = safetensors_reader.open_folder(folder, convert_t5.WEIGHTS)
  return TextEncoder(
    tokenizer,
    lambda ids, mask: apply(params, jax.device_put(ids, ids_place)),
    identity=_identity(kind, _digest_tensors(weights), _digest(tokenizer.path)),
    width=config.width,
    text_length=text_length,
    scene_token_ids=tokenizer.scene_token_ids,
    pad_id=tokenizer.pad_id,
    keep_padding=True,
    batch=batch,
  )


def _identity(kind: str, *digests: bytes) -> str:
  """The same for the same contents, wherever the files lie."""
  return f'{kind}:{hashlib.sha256(b"".join(digests)).hexdigest()[:16]}'


def _digest(path: pathlib.Path) -> bytes:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').digest()


def _digest_tensors(tensors: Mapping[str, safetensors_reader.Tensor]) -> bytes:
  """The same however the tensors are spread over files."""
  digest = hashlib.sha256()
  for key in sorted(tensors):
    tensor = tensors[key]
    digest.update(f'{key} {tensor.dtype} {tensor.shape}'.encode())
    digest.update(np.ascontiguousarray(tensor).view(np.uint8))
  return digest.digest()
