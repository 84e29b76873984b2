"""Embedding of texts: tokens, padding, batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import re
import string
import warnings

import jax
import numpy as np

from ttt_jax import storyboard

# Texts per call: with one shape for all, the encoder compiles once.
BATCH = 8
_SCENE_TOKEN = re.compile(f'{storyboard.START_SCENE}|{storyboard.END_SCENE}')
# Unknown words that a warning names.
_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoder:
  """A tokenizer and an encoder.

  Attributes:
    tokenize: Converts a text to ids.
    states: Converts int32 ids and mask [batch, L] to states [batch, L, Dt].
    identity: 'kind:hash' of weights and tokenizer; the kind contains a compute
      type other than float32.
    width: Width of an embedding, Dt.
    text_length: Tokens per text, L.
    scene_token_ids: Vocabulary rows of '<start_scene>' and '<end_scene>';
      empty if the vocabulary has none.
    pad_id: Id of the token that fills up short texts.
    keep_padding: Whether embeddings of padding are the encoder's, not zero.
    batch: Texts per call.
    unknown_id: Id of what is not in the vocabulary; None: there is no such id.
  """

  tokenize: Callable[[str], list[int]]
  states: Callable[[np.ndarray, np.ndarray], jax.Array]
  identity: str
  width: int
  text_length: int
  scene_token_ids: tuple[int, ...]
  pad_id: int = 0
  keep_padding: bool = False
  batch: int = BATCH
  unknown_id: int | None = None

  def count_tokens(self, text: str) -> int:
    """Returns the number of tokens, including those of start and end."""
    return len(self.tokenize(text))

  def encode(self, texts: Sequence[str]) -> np.ndarray:
    """Embeds texts; equal ones are computed once.

    Args:
      texts: N texts; '' is the empty text.

    Returns:
      float32 [N, L, Dt]. Positions after the last token are zero, except with
      T5 and CLIP: CogVideoX and Stable Diffusion were trained to read them.

    Raises:
      ValueError: a text has more than L tokens.

    Warns:
      UserWarning: a text has words that are not in the vocabulary.
    """
    rows = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    self._warn_of_unknown(rows)
    count = -(-len(rows) // self.batch) * self.batch
    ids = np.full((count, self.text_length), self.pad_id, np.int32)
    mask = np.zeros((count, self.text_length), np.int32)
    # Rows that only fill the batch need a token: softmax over none is NaN.
    mask[:, 0] = 1
    for text, i in rows.items():
      tokens = self.tokenize(text)
      if len(tokens) > self.text_length:
        raise ValueError(
          f'the text {shorten(text, 40)!r} has {len(tokens)} tokens; at most'
          f' {self.text_length} fit, shorten it'
        )
      ids[i, : len(tokens)] = tokens
      mask[i, : len(tokens)] = 1
    out = np.zeros((count, self.text_length, self.width), np.float32)
    for i in range(0, count, self.batch):
      part = slice(i, i + self.batch)
      out[part] = self.states(ids[part], mask[part])
    if not self.keep_padding:
      out *= mask[..., None]
    return out[[rows[text] for text in texts]]

  def _warn_of_unknown(self, texts: Iterable[str]) -> None:
    """Warns of words that the encoder reads as its one unknown token."""
    if self.unknown_id is None:
      return
    unknown = [
      word
      for text in texts
      if self.unknown_id in self.tokenize(text)
      for part in _SCENE_TOKEN.split(text)
      for word in (w.strip(string.punctuation) for w in part.split())
      if self.unknown_id in self.tokenize(word)
    ]
    if unknown := list(dict.fromkeys(unknown)):
      shown = ', '.join(repr(shorten(word, 20)) for word in unknown[:_SHOWN])
      more = f' and {len(unknown) - _SHOWN} more' * (len(unknown) > _SHOWN)
      warnings.warn(
        f'the vocabulary of the text encoder does not contain {shown}{more};'
        ' all of them mean the same to the model',
        stacklevel=3,
      )


def truncated(
  tokenize: Callable[[str], list[int]],
  length: int,
  scene_token_ids: Sequence[int],
) -> Callable[[str], list[int]]:
  """Returns a tokenizer that cuts the ids of long texts to `length`.

  The special token at the end stays, and so does the end of a scene before it.
  """

  def cut(text: str) -> list[int]:
    ids = tokenize(text)
    if len(ids) <= length:
      return ids
    tail = min(1 + (ids[-2] in scene_token_ids), length)
    return ids[: length - tail] + ids[-tail:]

  return cut


def shorten(text: str, limit: int = 60) -> str:
  """Returns a text for a message of one line, at most `limit` characters."""
  text = ' '.join(text.split())
  return text if len(text) <= limit else f'{text[: limit - 3]}...'
