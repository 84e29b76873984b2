"""Texts to embeddings: tokens, padding, batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

# Texts a call: with one shape for all the encoder compiles once.
BATCH = 8


class TextEncoder:
  """A tokenizer and an encoder.

  Attributes:
    identity: 'kind:hash' of the weights and the tokenizer; the kind names a
      compute type other than float32.
    width: of an embedding, Dt.
    text_length: tokens a text, L.
    scene_token_ids: vocabulary rows of '<start_scene>' and '<end_scene>'.
  """

  def __init__(
    self,
    tokenize: Callable[[str], list[int]],
    states: Callable[[np.ndarray, np.ndarray], jax.Array],
    *,
    identity: str,
    width: int,
    text_length: int,
    scene_token_ids: tuple[int, int],
    pad_id: int = 0,
    keep_padding: bool = False,
    batch: int = BATCH,
  ):
    """Wraps the two.

    Args:
      tokenize: text -> ids.
      states: int32 ids, mask [batch, L] -> states [batch, L, Dt].
      identity: and the following are attributes.
      width: see there.
      text_length: see there.
      scene_token_ids: see there.
      pad_id: of the token that fills up short texts.
      keep_padding: embeddings of padding are the encoder's, not zero.
      batch: texts a call.
    """
    self._tokenize = tokenize
    self._states = states
    self.identity = identity
    self.width = width
    self.text_length = text_length
    self.scene_token_ids = scene_token_ids
    self._pad_id = pad_id
    self._keep_padding = keep_padding
    self._batch = batch

  def count_tokens(self, text: str) -> int:
    """Tokens of a text, with those that begin and end it."""
    return len(self._tokenize(text))

  def encode(self, texts: Sequence[str]) -> np.ndarray:
    """Embeds texts; equal ones are computed once.

    Args:
      texts: N texts, '' for no text.

    Returns:
      float32 [N, L, Dt]; positions behind the last token are zero, but of
      T5, whose padding CogVideoX was trained to read.

    Raises:
      ValueError: a text has more than L tokens.
    """
    rows = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    count = -(-len(rows) // self._batch) * self._batch
    ids = np.full((count, self.text_length), self._pad_id, np.int32)
    mask = np.zeros((count, self.text_length), np.int32)
    # Rows that only fill the batch need a token, else softmax has nothing.
    mask[:, 0] = 1
    for text, i in rows.items():
      tokens = self._tokenize(text)
      if len(tokens) > self.text_length:
        raise ValueError(
          f'the text {_shorten(text)!r} has {len(tokens)} tokens; at most'
          f' {self.text_length} fit, shorten it'
        )
      ids[i, : len(tokens)] = tokens
      mask[i, : len(tokens)] = 1
    out = np.zeros((count, self.text_length, self.width), np.float32)
    for i in range(0, count, self._batch):
      part = slice(i, i + self._batch)
      out[part] = self._states(ids[part], mask[part])
    if not self._keep_padding:
      out *= mask[..., None]
    return out[[rows[text] for text in texts]]


def _shorten(text: str) -> str:
  return text if len(text) <= 40 else text[:37] + '...'
