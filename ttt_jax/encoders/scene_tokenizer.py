"""Tokenizers in which the start and the end of a scene are one token each."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import pathlib
import re

import tokenizers

from ttt_jax import storyboard


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneTokenizer:
  """Converts texts to ids.

  Attributes:
    path: File with the vocabulary.
    pieces: Converts a text to ids without special tokens.
    prefix: Ids at the start of every text.
    suffix: Ids at the end of every text.
    pad_id: Id of the token that fills up short texts.
    rows: Scene token -> row of the embedding table.
  """

  path: pathlib.Path
  pieces: Callable[[str], list[int]]
  prefix: tuple[int, ...] = ()
  suffix: tuple[int, ...] = ()
  pad_id: int = 0
  rows: dict[str, int]

  @property
  def scene_token_ids(self) -> tuple[int, int]:
    """Rows of '<start_scene>' and '<end_scene>'."""
    return self.rows[storyboard.START_SCENE], self.rows[storyboard.END_SCENE]

  def __call__(self, text: str) -> list[int]:
    """Returns the ids of a text, one per scene token."""
    scene_tokens = '|'.join(map(re.escape, self.rows))
    ids = list(self.prefix)
    for part in re.split(f'({scene_tokens})', text):
      ids += [self.rows[part]] if part in self.rows else self.pieces(part)
    return ids + list(self.suffix)


def load_fast(path: pathlib.Path) -> tokenizers.Tokenizer:
  """Loads a tokenizer.json, without truncation and padding.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file is damaged.
  """
  if not path.is_file():
    raise FileNotFoundError(f'no {path.name} in {path.parent}')
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
  except Exception as e:  # The library raises nothing narrower.
    raise ValueError(
      f'{path} is not a valid tokenizer ({e}): copy it again'
    ) from e
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer


def fast_pieces(
  tokenizer: tokenizers.Tokenizer,
) -> Callable[[str], list[int]]:
  """Returns a function that converts a text to ids without special tokens."""
  return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
