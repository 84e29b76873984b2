"""Loads the text encoder in a folder."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import os
import pathlib
from typing import Any

import jax
import numpy as np

from ttt_jax import sharding
from ttt_jax.convert import clip as convert_clip
from ttt_jax.convert import minilm as convert_minilm
from ttt_jax.convert import model_folder
from ttt_jax.convert import model_format
from ttt_jax.convert import safetensors_reader
from ttt_jax.convert import t5 as convert_t5
from ttt_jax.encoders import bert_tokenizer
from ttt_jax.encoders import clip_tokenizer
from ttt_jax.encoders import identity
from ttt_jax.encoders import scene_tokenizer
from ttt_jax.encoders import t5_tokenizer
from ttt_jax.encoders import text_encoder
from ttt_jax.models.text import clip
from ttt_jax.models.text import minilm
from ttt_jax.models.text import t5
from ttt_jax.runtime import schema

TextEncoder = text_encoder.TextEncoder

_CLIP = 'clip_text_model'


def load_text_encoder(
  folder: str | os.PathLike[str],
  text_length: int,
  *,
  dtype: str = 'float32',
  truncate: bool = False,
  mesh: jax.sharding.Mesh | None = None,
) -> TextEncoder:
  """Loads the encoder in a folder in the layout of transformers.

  Args:
    folder: Folder with config.json and weights, see
      `safetensors_reader.open_folder`, or of a complete model with
      `text_encoder`. The tokenizer is in the same folder, or in `tokenizer`
      next to it.
    text_length: Tokens per text, L.
    dtype: Type of the activations of T5 and CLIP, and of the weights of T5:
      'float32' or 'bfloat16'. BERT is always float32.
    truncate: Whether to cut texts of more than L tokens.
    mesh: Mesh of `sharding.make_mesh` over which a T5 is split; None is the
      default device.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a kind of model that is not supported, damaged files, or a
      length that the model does not have.
  """
  folder = model_folder.find_part(folder, 'text_encoder')
  kind = _read_config(folder)['model_type']
  if kind == 'bert':
    encoder = _load_bert(folder, text_length)
  elif kind == _CLIP:
    encoder = _load_clip(folder, text_length, dtype)
  else:
    encoder = _load_t5(folder, text_length, dtype, mesh)
  if not truncate:
    return encoder
  tokenize = text_encoder.truncated(
    encoder.tokenize, text_length, encoder.scene_token_ids
  )
  return dataclasses.replace(encoder, tokenize=tokenize)


def load_tokenizer(
  folder: str | os.PathLike[str], truncate_to: int | None = None
) -> tuple[Callable[[str], list[int]], tuple[int, ...]]:
  """Loads the tokenizer of `load_text_encoder`'s encoder, without weights.

  Args:
    folder: Folder of the encoder.
    truncate_to: Number of ids to which long texts are cut; None cuts none.

  Returns:
    A function that converts a text to ids, and the rows of '<start_scene>'
    and '<end_scene>', which are empty for CLIP.

  Raises:
    FileNotFoundError, ValueError: as `load_text_encoder`.
  """
  folder = model_folder.find_part(folder, 'text_encoder')
  kind = _read_config(folder)['model_type']
  if kind == _CLIP:
    sizes = convert_clip.FORMAT.load_config(folder)
    tokenizer = clip_tokenizer.find_tokenizer(folder, sizes.vocab_size)
    tokenize, ids = tokenizer.tokens, ()
  elif kind == 'bert':
    sizes = convert_minilm.FORMAT.load_config(folder)
    tokenize = _bert_tokenizer(folder, sizes)
    ids = tokenize.scene_token_ids
  else:
    sizes = convert_t5.FORMAT.load_config(folder)
    tokenize = t5_tokenizer.find_tokenizer(folder, sizes.vocab_size)
    ids = tokenize.scene_token_ids
  if truncate_to is not None:
    tokenize = text_encoder.truncated(tokenize, truncate_to, ids)
  return tokenize, ids


def _read_config(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the config.json of a supported model."""
  path = folder / 'config.json'
  config = model_format.read_object(path)
  if config.get('model_type') not in ('bert', _CLIP, 't5'):
    raise ValueError(
      f'{path} has model_type {schema.show(config.get("model_type"))}; expected'
      f" one of 'bert', {_CLIP!r} and 't5'"
    )
  return config


def _check_length(folder: pathlib.Path, length: int, longest: int) -> None:
  if not 3 <= length <= longest:
    raise ValueError(
      f'the text length is {length}; {folder} has positions for 3 to {longest}'
    )


def _load_bert(folder: pathlib.Path, text_length: int) -> TextEncoder:
  config, params = convert_minilm.load_minilm(folder)
  _check_length(folder, text_length, config.max_length)
  module = minilm.MiniLMEncoder(config)
  apply = jax.jit(lambda p, ids, mask: module.apply({'params': p}, ids, mask))
  tokenizer = _bert_tokenizer(folder, config)
  weights = folder / 'model.safetensors'
  return TextEncoder(
    tokenize=tokenizer,
    states=functools.partial(apply, params),
    identity=identity.combined_identity(
      'bert',
      identity.file_digest(weights)
      if weights.is_file()
      else _weights_digest(folder, convert_minilm.FORMAT),
      identity.file_digest(tokenizer.path),
    ),
    width=config.width,
    text_length=text_length,
    scene_token_ids=tokenizer.scene_token_ids,
    unknown_id=tokenizer.unknown_id,
  )


def _bert_tokenizer(
  folder: pathlib.Path, config: minilm.MiniLMConfig
) -> scene_tokenizer.SceneTokenizer:
  path = folder / 'tokenizer.json'
  return bert_tokenizer.load_tokenizer(path, config.vocab_size)


def _load_clip(
  folder: pathlib.Path, text_length: int, dtype: str
) -> TextEncoder:
  config, params = convert_clip.load_clip(
    folder, compute_dtype=dtype, dtype=np.float32
  )
  _check_length(folder, text_length, config.max_length)
  tokenizer = clip_tokenizer.find_tokenizer(folder, config.vocab_size)
  module = clip.CLIPTextEncoder(config)
  apply = jax.jit(lambda p, ids: module.apply({'params': p}, ids))
  return TextEncoder(
    tokenize=tokenizer.tokens,
    states=lambda ids, mask: apply(params, ids),
    identity=identity.combined_identity(
      _with_dtype('clip', dtype),
      _weights_digest(folder, convert_clip.FORMAT),
      *map(identity.file_digest, tokenizer.files),
    ),
    width=config.width,
    text_length=text_length,
    scene_token_ids=(),
    pad_id=tokenizer.pad_id,
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
  # First of all, because loading the weights may take minutes.
  sizes = convert_t5.FORMAT.load_config(folder, compute_dtype=dtype)
  tokenizer = t5_tokenizer.find_tokenizer(folder, sizes.vocab_size)
  if mesh is None:
    batch = text_encoder.BATCH
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    param_sharding = lambda _: device
    ids_sharding = out_sharding = device
  else:
    data = mesh.shape['data']
    batch = -(-text_encoder.BATCH // data) * data
    param_sharding = functools.partial(sharding.param_sharding, mesh)
    ids_sharding = sharding.batch_sharding(mesh)
    out_sharding = sharding.replicated(mesh)
  config, params = convert_t5.load_t5(
    folder, compute_dtype=dtype, dtype=dtype, sharding=param_sharding
  )
  module = t5.T5Encoder(config, sharding.ShardingPlan(mesh))
  apply = jax.jit(
    lambda p, ids: module.apply({'params': p}, ids), out_shardings=out_sharding
  )
  return TextEncoder(
    tokenize=tokenizer,
    states=lambda ids, mask: apply(params, jax.device_put(ids, ids_sharding)),
    identity=identity.combined_identity(
      _with_dtype('t5', dtype),
      _weights_digest(folder, convert_t5.FORMAT),
      identity.file_digest(tokenizer.path),
    ),
    width=config.width,
    text_length=text_length,
    scene_token_ids=tokenizer.scene_token_ids,
    unknown_id=tokenizer.unknown_id,
    pad_id=tokenizer.pad_id,
    keep_padding=True,
    batch=batch,
  )


def _with_dtype(kind: str, dtype: str) -> str:
  return kind if dtype == 'float32' else f'{kind}-{dtype}'


def _weights_digest(
  folder: pathlib.Path, model: model_format.ModelFormat
) -> bytes:
  return identity.tensors_digest(
    safetensors_reader.open_folder(folder, model.weights)
  )
