"""BERT's tokenizer with scene tokens."""

from __future__ import annotations

from collections.abc import Callable
import pathlib
import re

import tokenizers

from ttt_jax import storyboard

# BERT's vocabulary reserves these rows: no text is converted to them.
_SCENE_TOKENS = {
  storyboard.START_SCENE: '[unused1]',
  storyboard.END_SCENE: '[unused2]',
}


def load_tokenizer(
  path: pathlib.Path,
) -> tuple[Callable[[str], list[int]], tuple[int, int]]:
  """Loads a tokenizer that produces '[CLS] text [SEP]' with scene tokens.

  Args:
    path: Path of tokenizer.json.

  Returns:
    A function that converts a text to ids, and the rows of '<start_scene>'
    and '<end_scene>'.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file is damaged, or a special token is missing.
  """
  if not path.is_file():
    raise FileNotFoundError(f'no tokenizer.json in {path.parent}')
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
  except Exception as e:  # The library raises nothing narrower.
    raise ValueError(
      f'{path} is not a valid tokenizer ({e}): copy it again'
    ) from e
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
