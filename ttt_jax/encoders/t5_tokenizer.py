"""T5's tokenizer: a unigram model of pieces (Kudo 2018), and scene tokens.

The vocabulary consists of the file's, then the `<extra_id_*>` that T5 adds
(100 in the released model: 32 000 + 100). The next rows of the embedding table
are spare, and the scene tokens use the first two as in the paper's code:
`<end_scene>`, then `<start_scene>` (32100 and 32101).
"""

from __future__ import annotations

from collections.abc import Callable
import pathlib
from typing import Annotated

import msgspec
import sentencepiece

from ttt_jax import storyboard
from ttt_jax.convert import model_folder
from ttt_jax.encoders import scene_tokenizer
from ttt_jax.runtime import files
from ttt_jax.runtime import schema

MODEL = 'spiece.model'
FAST = 'tokenizer.json'
# In the order in which the tokens are added to the vocabulary.
_SCENE_TOKENS = (storyboard.END_SCENE, storyboard.START_SCENE)
_EXTRA_IDS = 100


class _Token(msgspec.Struct):
  content: str


class _Config(msgspec.Struct):
  """Fields of tokenizer_config.json that are read."""

  added_tokens_decoder: dict[
    Annotated[str, msgspec.Meta(pattern=r'^[0-9]{1,9}$')], _Token
  ] = {}
  extra_ids: schema.NonNegativeInt = _EXTRA_IDS


def find_tokenizer(
  folder: pathlib.Path, rows: int
) -> scene_tokenizer.SceneTokenizer:
  """Reads the tokenizer of an encoder in the layout of transformers.

  Args:
    folder: Folder of the encoder; the tokenizer is in it, or in `tokenizer`
      next to it, as `spiece.model`, or else as `tokenizer.json`. Tokens that
      `tokenizer_config.json` adds keep their rows.
    rows: Number of rows of the encoder's embedding table.

  Raises:
    FileNotFoundError: neither file exists.
    ValueError: a damaged file, or no spare row for the scene tokens.
  """
  sibling = folder.absolute().parent / 'tokenizer'
  for path in (folder / MODEL, sibling / MODEL, folder / FAST, sibling / FAST):
    if path.is_file():
      break
  else:
    raise FileNotFoundError(
      f'no {MODEL} and no {FAST} in {folder} or {sibling}: T5 needs its'
      ' tokenizer'
    )
  load = _load_sentencepiece if path.name == MODEL else _load_fast
  tokenizer = load(path)
  last = max(tokenizer.rows.values())
  if last >= rows:
    raise ValueError(
      f'the scene tokens of the tokenizer {tokenizer.path} need the rows'
      f' {sorted(tokenizer.rows.values())}, but the embedding table of the'
      f' text encoder has {rows} rows; it needs {last + 1} or more'
    )
  return tokenizer


def _load_sentencepiece(path: pathlib.Path) -> scene_tokenizer.SceneTokenizer:
  try:
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    model.encode('a \u0f00')
  except (RuntimeError, OSError, ValueError) as e:
    reason = model_folder.describe_damage(path) or (
      'is not a complete sentencepiece model: copy it again'
    )
    raise ValueError(f'{path} {reason}') from e
  special = {
    '</s>': model.eos_id(),
    '<pad>': model.pad_id(),
    '<unk>': model.unk_id(),
  }
  special = {name: row for name, row in special.items() if row >= 0}
  added, extra = _added_tokens(path.with_name('tokenizer_config.json'))
  next_row = max([model.get_piece_size() + extra - 1, *added.values()]) + 1
  rows = _scene_rows(added, next_row)
  return _build(path, model.encode, special, rows)


def _load_fast(path: pathlib.Path) -> scene_tokenizer.SceneTokenizer:
  model = scene_tokenizer.load_fast(path)
  vocabulary = model.get_vocab(with_added_tokens=True)
  rows = _scene_rows(vocabulary, max(vocabulary.values(), default=-1) + 1)
  pieces = scene_tokenizer.fast_pieces(model)
  return _build(path, pieces, vocabulary, rows)


def _build(
  path: pathlib.Path,
  pieces: Callable[[str], list[int]],
  special: dict[str, int],
  rows: dict[str, int],
) -> scene_tokenizer.SceneTokenizer:
  for name in ('</s>', '<pad>'):
    if name not in special:
      raise ValueError(f'{path} has no token {name}, so it is not for T5')
  return scene_tokenizer.SceneTokenizer(
    path=path,
    pieces=pieces,
    suffix=(special['</s>'],),
    pad_id=special['<pad>'],
    rows=rows,
    unknown_id=special.get('<unk>'),
  )


def _added_tokens(path: pathlib.Path) -> tuple[dict[str, int], int]:
  """Returns token -> row of added tokens, and the number of extra ids."""
  if not path.is_file():
    return {}, _EXTRA_IDS
  found = schema.convert(files.read_json(path), _Config, str(path))
  rows = found.added_tokens_decoder
  return {token.content: int(row) for row, token in rows.items()}, (
    found.extra_ids
  )


def _scene_rows(known: dict[str, int], next_row: int) -> dict[str, int]:
  """Returns the rows of the scene tokens, from `next_row` on if unknown."""
  out = {}
  for token in _SCENE_TOKENS:
    out[token] = known.get(token, next_row)
    next_row += token not in known
  return out
