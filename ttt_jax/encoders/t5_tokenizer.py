"""T5's tokenizer: a unigram model of pieces (Kudo 2018), and scene tokens.

The vocabulary is that of the file, then the `<extra_id_*>` that T5 adds to
it (100 in the released model: 32 000 + 100). The rows of the embedding table
behind those are spare, and the scene tokens take the first two as the paper's
code does: `<end_scene>`, then `<start_scene>` (32100 and 32101).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
import pathlib
import re

import sentencepiece
import tokenizers

from ttt_jax import storyboard

MODEL = 'spiece.model'
FAST = 'tokenizer.json'
# The order counts: in this one the tokens join the vocabulary.
_SCENE_TOKENS = (storyboard.END_SCENE, storyboard.START_SCENE)
_EXTRA_IDS = 100


@dataclasses.dataclass(frozen=True)
class T5Tokenizer:
  """Text to ids.

  Attributes:
    path: the file that the pieces come from.
    pieces: ids of a text without special tokens.
    eos_id: ends every text.
    pad_id: fills up what is shorter than the others.
    rows: special token -> row, of the two scene tokens.
  """

  path: pathlib.Path
  pieces: Callable[[str], list[int]]
  eos_id: int
  pad_id: int
  rows: dict[str, int]

  @property
  def scene_token_ids(self) -> tuple[int, int]:
    """Rows of '<start_scene>' and '<end_scene>'."""
    return self.rows[storyboard.START_SCENE], self.rows[storyboard.END_SCENE]

  def __call__(self, text: str) -> list[int]:
    """The ids of a text, scene tokens as one id each, and the end."""
    marks = '|'.join(map(re.escape, self.rows))
    ids = []
    for part in re.split(f'({marks})', text):
      ids += [self.rows[part]] if part in self.rows else self.pieces(part)
    return ids + [self.eos_id]


def find_tokenizer(folder: pathlib.Path, rows: int) -> T5Tokenizer:
  """Reads the tokenizer of an encoder in the layout of transformers.

  Args:
    folder: of the encoder; the tokenizer is in it, or in `tokenizer` beside
      it. That has `spiece.model`, or `tokenizer.json` where that is all there
      is. Tokens that `tokenizer_config.json` adds keep their rows.
    rows: of the encoder's embedding table.

  Raises:
    FileNotFoundError: neither file is there.
    ValueError: a damaged file, or no row is left for the scene tokens.
  """
  beside = folder.absolute().parent / 'tokenizer'
  for path in (folder / MODEL, beside / MODEL, folder / FAST, beside / FAST):
    if path.is_file():
      break
  else:
    raise FileNotFoundError(
      f'no {MODEL} and no {FAST} in {folder} or {beside}: T5 needs its'
      ' tokenizer'
    )
  read = _from_pieces if path.name == MODEL else _from_fast
  tokenizer = read(path)
  last = max(tokenizer.rows.values())
  if last >= rows:
    raise ValueError(
      f'the tokenizer {tokenizer.path} leaves no row for the scene tokens:'
      f' they would be {sorted(tokenizer.rows.values())}, and the embedding'
      f' table of the text encoder has {rows} rows; it needs {last + 1} or'
      ' more'
    )
  return tokenizer


def _from_pieces(path: pathlib.Path) -> T5Tokenizer:
  try:
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
  except (RuntimeError, OSError) as e:
    raise ValueError(
      f'{path} is no whole sentencepiece model: copy it again'
    ) from e
  for name, found in (('</s>', model.eos_id()), ('<pad>', model.pad_id())):
    if found < 0:
      raise ValueError(f'{path} has no token {name}: it is no T5 tokenizer')
  added, extra = _added_tokens(path.with_name('tokenizer_config.json'))
  behind = max([model.get_piece_size() + extra - 1, *added.values()]) + 1
  return T5Tokenizer(
    path,
    model.encode,
    model.eos_id(),
    model.pad_id(),
    _scene_rows(added, behind),
  )


def _from_fast(path: pathlib.Path) -> T5Tokenizer:
  try:
    model = tokenizers.Tokenizer.from_file(str(path))
  except Exception as e:  # The library raises nothing narrower.
    raise ValueError(f'{path} is no tokenizer ({e})') from e
  model.no_truncation()
  model.no_padding()
  vocabulary = model.get_vocab(with_added_tokens=True)
  for name in ('</s>', '<pad>'):
    if name not in vocabulary:
      raise ValueError(f'{path} has no token {name}: it is no T5 tokenizer')
  return T5Tokenizer(
    path,
    lambda text: model.encode(text, add_special_tokens=False).ids,
    vocabulary['</s>'],
    vocabulary['<pad>'],
    _scene_rows(vocabulary, max(vocabulary.values()) + 1),
  )


def _added_tokens(path: pathlib.Path) -> tuple[dict[str, int], int]:
  """Tokens and their rows, and the number of extra ids, from the config."""
  if not path.is_file():
    return {}, _EXTRA_IDS
  try:
    found = json.loads(path.read_text())
    added = found.get('added_tokens_decoder', {})
    return (
      {token['content']: int(row) for row, token in added.items()},
      int(found.get('extra_ids', _EXTRA_IDS)),
    )
  except (ValueError, TypeError, KeyError, AttributeError) as e:
    raise ValueError(f'{path} is no config of a tokenizer ({e})') from e


def _scene_rows(known: dict[str, int], behind: int) -> dict[str, int]:
  """Rows of the scene tokens; those not known yet follow from `behind` on."""
  out = {}
  for token in _SCENE_TOKENS:
    out[token] = known.get(token, behind)
    behind += token not in known
  return out
