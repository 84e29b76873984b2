"""Tokenizers in which the start and the end of a scene are one token each."""

from __future__ import annotations

from collections.abc import Callable, Generator
import contextlib
import dataclasses
import pathlib
import re

import tokenizers

from ttt_jax import storyboard
from ttt_jax.convert import model_folder
from ttt_jax.runtime import files


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
    unknown_id: Id of what is not in the vocabulary; None: there is no such id.
  """

  path: pathlib.Path
  pieces: Callable[[str], list[int]]
  prefix: tuple[int, ...] = ()
  suffix: tuple[int, ...] = ()
  pad_id: int = 0
  rows: dict[str, int]
  unknown_id: int | None = None

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
  with damaged_is_error(path):
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    check_vocabulary(tokenizer)
  return tokenizer


@contextlib.contextmanager
def damaged_is_error(*paths: pathlib.Path) -> Generator[None]:
  """Raises ValueError in place of a tokenizer's errors for damaged files."""
  try:
    yield
  except (KeyboardInterrupt, SystemExit):
    raise
  # The library raises nothing narrower than Exception, and a panic of its Rust
  # is a BaseException.
  except BaseException as e:
    for path in paths:
      if reason := model_folder.describe_damage(path):
        raise ValueError(f'{path} {reason}') from e
    raise ValueError(
      f'{" with ".join(map(str, paths))} is not a valid tokenizer'
      f' ({files.first_line(e)[:200]}): copy it again'
    ) from e


def check_vocabulary(tokenizer: tokenizers.Tokenizer) -> None:
  """Raises an error if ids are not unique, or if a text cannot be encoded."""
  rows = tokenizer.get_vocab(with_added_tokens=True)
  tokens = {row: token for token, row in rows.items()}
  if len(tokens) < len(rows):
    token = next(t for t, row in rows.items() if tokens[row] != t)
    raise ValueError(
      f'the tokens {token!r} and {tokens[rows[token]]!r} have the id'
      f' {rows[token]}'
    )
  # A letter that no vocabulary contains needs the token for unknown ones.
  tokenizer.encode('a \u0f00', add_special_tokens=False)


def check_rows(
  path: pathlib.Path, tokenizer: tokenizers.Tokenizer, rows: int
) -> None:
  """Raises ValueError for a tokenizer with more ids than an embedding table."""
  last = max(tokenizer.get_vocab(with_added_tokens=True).values())
  if last >= rows:
    raise ValueError(
      f'the tokenizer {path} has the id {last}, but the embedding table of the'
      f' text encoder has {rows} rows: they belong to different models'
    )


def fast_pieces(
  tokenizer: tokenizers.Tokenizer,
) -> Callable[[str], list[int]]:
  """Returns a function that converts a text to ids without special tokens."""
  return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
