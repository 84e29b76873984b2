"""Texts to embeddings: tokenizer, scene tokens, padding, batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import hashlib
import json
import os
import pathlib
import re

import jax
import numpy as np
import tokenizers

from ttt_jax import segment
from ttt_jax.convert import minilm as convert_minilm
from ttt_jax.models.text import minilm

# Texts a call: with one shape for all the encoder compiles once.
_BATCH = 8
# Rows of BERT's vocabulary that no text reaches, kept for tokens like these.
_BERT_SCENE_TOKENS = {
    segment.START_SCENE: '[unused1]',
    segment.END_SCENE: '[unused2]',
}


class TextEncoder:
  """A tokenizer and an encoder.

  Attributes:
    identity: 'kind:hash' of the weights and the tokenizer.
    width: of an embedding, Dt.
    text_length: tokens a text, L.
    scene_token_ids: vocabulary rows of '<start_scene>' and '<end_scene>'.
  """

  def __init__(
      self,
      tokenize: Callable[[str], list[int]],
      states: Callable[[np.ndarray, np.ndarray], jax.Array],
      *,
      identity: str,
      width: int,
      text_length: int,
      scene_token_ids: tuple[int, int],
  ):
    """Args: text -> ids; ids, mask [n, L] -> states [n, L, Dt]; attributes."""
    self._tokenize = tokenize
    self._states = states
    self.identity = identity
    self.width = width
    self.text_length = text_length
    self.scene_token_ids = scene_token_ids

  def count_tokens(self, text: str) -> int:
    """Tokens of a text, with those that begin and end it."""
    return len(self._tokenize(text))

  def encode(self, texts: Sequence[str]) -> np.ndarray:
    """Embeds texts; equal ones are computed once.

    Args:
      texts: N texts, '' for no text.

    Returns:
      float32 [N, L, Dt]; positions behind the last token are zero.

    Raises:
      ValueError: a text has more than L tokens.
    """
    rows = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    count = -(-len(rows) // _BATCH) * _BATCH
    ids = np.zeros((count, self.text_length), np.int32)
    mask = np.zeros((count, self.text_length), np.int32)
    # Rows that only fill the batch need a token, else softmax has nothing.
    mask[:, 0] = 1
    for text, i in rows.items():
      tokens = self._tokenize(text)
      if len(tokens) > self.text_length:
        raise ValueError(
            f'the text {_shorten(text)!r} has {len(tokens)} tokens; at most'
            f' {self.text_length} fit, shorten it'
        )
      ids[i, : len(tokens)] = tokens
      mask[i, : len(tokens)] = 1
    out = np.zeros((count, self.text_length, self.width), np.float32)
    for i in range(0, count, _BATCH):
      part = slice(i, i + _BATCH)
      out[part] = self._states(ids[part], mask[part])
    out *= mask[..., None]
    return out[[rows[text] for text in texts]]


def load_text_encoder(
    folder: str | os.PathLike[str], text_length: int
) -> TextEncoder:
  """Loads the encoder that a folder in the layout of transformers holds.

  Args:
    folder: with config.json, tokenizer.json and model.safetensors.
    text_length: tokens a text, L.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a kind of model that is not supported, damaged files, or a
      length that the model does not have.
  """
  folder = pathlib.Path(folder)
  _check_kind(folder)
  return _load_bert(folder, text_length)


def load_tokenizer(
    folder: str | os.PathLike[str],
) -> tuple[Callable[[str], list[int]], tuple[int, int]]:
  """The tokenizer of `load_text_encoder`'s encoder, without its weights.

  Returns:
    text -> ids, and the rows of '<start_scene>' and '<end_scene>'.

  Raises:
    FileNotFoundError, ValueError: as `load_text_encoder`.
  """
  folder = pathlib.Path(folder)
  _check_kind(folder)
  return bert_tokenizer(folder / 'tokenizer.json')


def _check_kind(folder: pathlib.Path) -> None:
  """Raises ValueError unless `folder` holds a kind of model that we have."""
  path = folder / 'config.json'
  if not path.is_file():
    raise FileNotFoundError(
        f'no config.json in {folder}: it must be the folder of a text encoder'
    )
  try:
    kind = json.loads(path.read_text()).get('model_type')
  except (ValueError, AttributeError) as e:
    raise ValueError(f'{path} is no JSON object ({e})') from e
  if kind == 't5':
    raise ValueError(
        f'{path} describes a T5, which is not supported yet; use a model of'
        " type 'bert'"
    )
  if kind != 'bert':
    raise ValueError(
        f"{path} has model_type {kind!r}; supported is 'bert'"
    )


def _load_bert(folder: pathlib.Path, text_length: int) -> TextEncoder:
  config, params = convert_minilm.load_minilm(folder)
  if not 3 <= text_length <= config.max_length:
    raise ValueError(
        f'the text length is {text_length}; {folder} has positions for 3 to'
        f' {config.max_length}'
    )
  module = minilm.MiniLMEncoder(config)
  apply = jax.jit(lambda p, ids, mask: module.apply({'params': p}, ids, mask))
  tokenize, scene_token_ids = bert_tokenizer(folder / 'tokenizer.json')
  return TextEncoder(
      tokenize,
      lambda ids, mask: apply(params, ids, mask),
      identity=_identity(
          'bert', folder / convert_minilm.WEIGHTS, folder / 'tokenizer.json'
      ),
      width=config.width,
      text_length=text_length,
      scene_token_ids=scene_token_ids,
  )


def bert_tokenizer(
    path: pathlib.Path,
) -> tuple[Callable[[str], list[int]], tuple[int, int]]:
  """'[CLS] text [SEP]' with scene tokens: text -> ids, and the two rows."""
  if not path.is_file():
    raise FileNotFoundError(f'no tokenizer.json in {path.parent}')
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
  except Exception as e:  # The library raises nothing narrower.
    raise ValueError(f'{path} is no tokenizer ({e})') from e
  tokenizer.no_truncation()
  tokenizer.no_padding()

  def row(token):
    found = tokenizer.token_to_id(token)
    if found is None:
      raise ValueError(f'{path} has no token {token!r} in its vocabulary')
    return found

  begin, end = row('[CLS]'), row('[SEP]')
  scene = {text: row(token) for text, token in _BERT_SCENE_TOKENS.items()}
  pieces = re.compile('(' + '|'.join(map(re.escape, scene)) + ')')

  def tokenize(text: str) -> list[int]:
    ids = [begin]
    for piece in pieces.split(text):
      if piece in scene:
        ids.append(scene[piece])
      else:
        ids += tokenizer.encode(piece, add_special_tokens=False).ids
    return ids + [end]

  return tokenize, (scene[segment.START_SCENE], scene[segment.END_SCENE])


def _identity(kind: str, *paths: pathlib.Path) -> str:
  """The same for the same contents, wherever the files lie."""
  digest = hashlib.sha256()
  for path in paths:
    with open(path, 'rb') as file:
      digest.update(hashlib.file_digest(file, 'sha256').digest())
  return f'{kind}:{digest.hexdigest()[:16]}'


def _shorten(text: str) -> str:
  return text if len(text) <= 40 else text[:37] + '...'
