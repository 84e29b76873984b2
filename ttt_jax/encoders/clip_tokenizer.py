"""CLIP's tokenizer: byte pairs of lower-case words."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import pathlib

import numpy as np
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers

from ttt_jax.runtime import json_file

VOCABULARY = 'vocab.json'
MERGES = 'merges.txt'
# Padding is the end token in SD 1 and '!' in SD 2; one of these says so.
_CONFIGS = ('tokenizer_config.json', 'special_tokens_map.json')
START = '<|startoftext|>'
END = '<|endoftext|>'
LENGTH = 77

# What a word is: an ending, letters, one digit, or anything else but space.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


@dataclasses.dataclass(frozen=True)
class CLIPTokenizer:
  """Texts to ids.

  Attributes:
    path: folder of the files.
    pieces: the byte pairs.
    start_id: begins every text.
    end_id: ends every text.
    pad_id: fills it up.
    length: tokens of a text with those.
  """

  path: pathlib.Path
  pieces: tokenizers.Tokenizer
  start_id: int
  end_id: int
  pad_id: int
  length: int = LENGTH

  def tokens(self, text: str) -> list[int]:
    """The ids of a text, start and end, not padded."""
    return [self.start_id, *self.pieces.encode(text).ids, self.end_id]

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """Ids int32 [N, length], padded.

    Raises:
      ValueError: a text that is longer.
    """
    out = np.full((len(texts), self.length), self.pad_id, np.int32)
    for row, text in zip(out, texts):
      ids = self.tokens(text)
      if len(ids) > self.length:
        raise ValueError(
          f'the prompt {shorten(text)!r} has {len(ids)} tokens with start and'
          f' end; CLIP reads at most {self.length}: shorten it'
        )
      row[: len(ids)] = ids
    return out


def shorten(text: str, limit: int = 60) -> str:
  """A text for a message of one line."""
  text = ' '.join(text.split())
  return text if len(text) <= limit else f'{text[: limit - 3]}...'


def find_tokenizer(folder: pathlib.Path) -> CLIPTokenizer:
  """Reads a tokenizer in the layout of transformers.

  Args:
    folder: with vocab.json and merges.txt; or the folder of a model or of
      its text encoder, with `tokenizer` in it or beside it.

  Raises:
    FileNotFoundError: one of the two files is missing.
    ValueError: a damaged file, or no CLIP tokenizer.
  """
  folder = pathlib.Path(folder)
  places = (
    folder,
    folder / 'tokenizer',
    folder.absolute().parent / 'tokenizer',
  )
  for place in places:
    found = [name for name in (VOCABULARY, MERGES) if (place / name).is_file()]
    if found:
      break
  else:
    raise FileNotFoundError(
      f'no tokenizer in {places[0]}, {places[1]} or {places[2]}: CLIP needs'
      f' {VOCABULARY} and {MERGES}'
    )
  for name in (VOCABULARY, MERGES):
    if name not in found:
      raise FileNotFoundError(f'{place} has no {name}: CLIP needs it')
  vocabulary = _vocabulary(place / VOCABULARY)
  pieces = tokenizers.Tokenizer(
    models.BPE(
      vocabulary,
      _merges(place / MERGES, vocabulary),
      unk_token=END,
      end_of_word_suffix='</w>',
    )
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
  pad = _padding(place)
  if pad not in vocabulary:
    raise ValueError(f'{place} pads with {pad!r}, which is not in {VOCABULARY}')
  # The padding in a text is that token, too: to SD 2 all '!' are padding.
  pieces.add_special_tokens([START, END, pad])
  return CLIPTokenizer(
    place, pieces, vocabulary[START], vocabulary[END], vocabulary[pad]
  )


def _vocabulary(path: pathlib.Path) -> dict[str, int]:
  found = json_file.read(path)
  if not isinstance(found, dict) or not all(
    isinstance(row, int) for row in found.values()
  ):
    raise ValueError(f'{path} is no vocabulary: it must map tokens to numbers')
  for token in (START, END):
    if token not in found:
      raise ValueError(f'{path} has no token {token}: it is not of CLIP')
  return found


def _merges(
  path: pathlib.Path, vocabulary: dict[str, int]
) -> list[tuple[str, str]]:
  try:
    lines = path.read_text('utf-8').splitlines()
  except UnicodeDecodeError as e:
    raise ValueError(f'{path} is not UTF-8 text: copy it again') from e
  merges = []
  # The first line names the version.
  for i, line in enumerate(lines):
    pair = tuple(line.split())
    if not pair or (i == 0 and line.startswith('#version')):
      continue
    if len(pair) != 2 or not {*pair, ''.join(pair)} <= vocabulary.keys():
      raise ValueError(
        f'{path}, line {i + 1}: {line!r} is no pair of tokens that are'
        f' joined in {VOCABULARY}'
      )
    merges.append(pair)
  return merges


def _padding(folder: pathlib.Path) -> str:
  for name in _CONFIGS:
    if (folder / name).is_file():
      found = json_file.read(folder / name)
      token = found.get('pad_token') if isinstance(found, dict) else None
      if isinstance(token, dict):
        token = token.get('content')
      if token is not None:
        return token
  return END
