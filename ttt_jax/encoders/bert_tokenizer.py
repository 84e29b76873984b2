"""BERT's tokenizer with scene tokens."""

from __future__ import annotations

import pathlib

from ttt_jax import storyboard
from ttt_jax.encoders import scene_tokenizer

# BERT's vocabulary reserves these rows: no text is converted to them.
_SCENE_TOKENS = {
  storyboard.START_SCENE: '[unused1]',
  storyboard.END_SCENE: '[unused2]',
}


def load_tokenizer(
  path: pathlib.Path, rows: int
) -> scene_tokenizer.SceneTokenizer:
  """Loads a tokenizer.json; texts become '[CLS] text [SEP]'.

  Args:
    path: Path of the file.
    rows: Number of rows of the encoder's embedding table.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file is damaged, or a special token is missing.
  """
  tokenizer = scene_tokenizer.load_fast(path)
  scene_tokenizer.check_rows(path, tokenizer, rows)

  def row(token):
    found = tokenizer.token_to_id(token)
    if found is None:
      raise ValueError(f'{path} has no token {token!r} in its vocabulary')
    return found

  return scene_tokenizer.SceneTokenizer(
    path=path,
    pieces=scene_tokenizer.fast_pieces(tokenizer),
    prefix=(row('[CLS]'),),
    suffix=(row('[SEP]'),),
    rows={text: row(token) for text, token in _SCENE_TOKENS.items()},
    unknown_id=tokenizer.token_to_id('[UNK]'),
  )
