"""CLIP's tokenizer: byte pairs of lower-case words."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers

from ttt_jax.encoders import scene_tokenizer
from ttt_jax.encoders import text_encoder
from ttt_jax.runtime import files
from ttt_jax.runtime import schema

VOCABULARY = 'vocab.json'
MERGES = 'merges.txt'
FAST = 'tokenizer.json'
# One of these defines the padding: the end token in SD 1, '!' in SD 2.
_CONFIGS = ('tokenizer_config.json', 'special_tokens_map.json')
START = '<|startoftext|>'
END = '<|endoftext|>'
LENGTH = 77

# A word is an ending, letters, one digit, or other characters but space.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


@dataclasses.dataclass(frozen=True)
class CLIPTokenizer:
  """Converts texts to ids.

  Attributes:
    files: Paths of the vocabulary's files.
    pieces: Tokenizer without special tokens.
    start_id: Id of the token that starts every text.
    end_id: Id of the token that ends every text.
    pad_id: Id of the token that fills up short texts.
    length: Number of tokens per text, all included.
  """

  files: tuple[pathlib.Path, ...]
  pieces: tokenizers.Tokenizer
  start_id: int
  end_id: int
  pad_id: int
  length: int = LENGTH

  def tokens(self, text: str) -> list[int]:
    """Returns the ids of a text with start and end, without padding."""
    ids = self.pieces.encode(text, add_special_tokens=False).ids
    return [self.start_id, *ids, self.end_id]

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """Returns padded ids, int32 [N, length].

    Raises:
      ValueError: a text has more tokens.
    """
    out = np.full((len(texts), self.length), self.pad_id, np.int32)
    for row, text in zip(out, texts):
      ids = self.tokens(text)
      if len(ids) > self.length:
        raise ValueError(
          f'the prompt {text_encoder.shorten(text)!r} has {len(ids)} tokens'
          f' with start and end; CLIP reads at most {self.length}: shorten it'
        )
      row[: len(ids)] = ids
    return out


def find_tokenizer(
  folder: pathlib.Path, rows: int | None = None
) -> CLIPTokenizer:
  """Reads a tokenizer in the layout of transformers.

  Args:
    folder: Folder with vocab.json and merges.txt, or with tokenizer.json; or
      folder of a model or of its text encoder, with `tokenizer` in it or next
      to it.
    rows: Number of rows of the encoder's embedding table; None is not checked.

  Raises:
    FileNotFoundError: one of the files is missing.
    ValueError: a damaged file, or the tokenizer of another model.
  """
  folder = pathlib.Path(folder)
  paths = (
    folder,
    folder / 'tokenizer',
    folder.absolute().parent / 'tokenizer',
  )
  # transformers 5 writes the one file, older versions the two, or all three.
  for path in paths:
    pair = path / VOCABULARY, path / MERGES
    there = [file for file in (*pair, path / FAST) if file.is_file()]
    if there:
      break
  else:
    raise FileNotFoundError(
      f'no tokenizer in {paths[0]}, {paths[1]} or {paths[2]}: CLIP needs'
      f' {VOCABULARY} and {MERGES}, or {FAST}'
    )
  if len(there) == 1 and there[0] in pair:
    (missing,) = {*pair} - {*there}
    raise FileNotFoundError(f'{path} has no {missing.name}: CLIP needs it')
  sources = pair if {*pair} <= {*there} else (path / FAST,)
  if sources == pair:
    with scene_tokenizer.damaged_is_error(*sources):
      pieces = tokenizers.Tokenizer(
        models.BPE.from_file(
          *map(str, sources), unk_token=END, end_of_word_suffix='</w>'
        )
      )
      scene_tokenizer.check_vocabulary(pieces)
  else:
    pieces = scene_tokenizer.load_fast(path / FAST)
    model: Any = pieces.model
    if getattr(model, 'end_of_word_suffix', None) != '</w>':
      raise ValueError(
        f'{path / FAST} is not a tokenizer of CLIP: it does not join pairs of'
        ' pieces of words that end in </w>'
      )
  pieces.normalizer = normalizers.Sequence(
    [
      normalizers.NFC(),
      normalizers.Replace(tokenizers.Regex(r'\s+'), ' '),
      normalizers.Lowercase(),
    ]
  )
  pieces.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(_WORDS), 'removed', invert=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  pieces.decoder = decoders.ByteLevel()
  pad = _padding(path)
  ids = {}
  for token in (START, END, pad):
    row = pieces.token_to_id(token)
    if row is None:
      raise ValueError(
        f'{sources[0]} has no token {token!r}, which starts, ends or pads'
        ' texts: it is not for CLIP'
      )
    ids[token] = row
  # In a text they are these tokens, too: to SD 2 every '!' is padding.
  pieces.add_special_tokens(list(ids))
  if rows is not None:
    scene_tokenizer.check_rows(path, pieces, rows)
  return CLIPTokenizer(
    files=sources,
    pieces=pieces,
    start_id=ids[START],
    end_id=ids[END],
    pad_id=ids[pad],
  )


def _padding(folder: pathlib.Path) -> str:
  """Returns the token that fills up short texts."""
  for name in _CONFIGS:
    if (folder / name).is_file():
      found = files.read_json(folder / name)
      token = found.get('pad_token') if isinstance(found, dict) else None
      if isinstance(token, dict):
        token = token.get('content')
      if token is not None:
        return schema.convert(token, str, f'"pad_token" of {folder / name}')
  return END
