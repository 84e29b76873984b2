"""BERT's tokenizer with scene tokens."""

from __future__ import annotations

from collections.abc import Callable
import pathlib
import re

import tokenizers

from ttt_jax import storyboard

# Rows of BERT's vocabulary that no text reaches, kept for tokens like these.
_SCENE_TOKENS = {
  storyboard.START_SCENE: '[unused1]',
  storyboard.END_SCENE: '[unused2]',
}


def load_tokenizer(
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
  scene = {text: row(token) for text, token in _SCENE_TOKENS.items()}
  pieces = re.compile('(' + '|'.join(map(re.escape, scene)) + ')')

  def tokenize(text: str) -> list[int]:
    ids = [begin]
    for piece in pieces.split(text):
      if piece in scene:
        ids.append(scene[piece])
      else:
        ids += tokenizer.encode(piece, add_special_tokens=False).ids
    return ids + [end]

  return tokenize, (scene[storyboard.START_SCENE], scene[storyboard.END_SCENE])
