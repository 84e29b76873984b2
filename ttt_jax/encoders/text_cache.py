"""Cache of text embeddings, in memory and in a folder."""

from __future__ import annotations

import collections
from collections.abc import Sequence
import hashlib
import os
import pathlib

import numpy as np

from ttt_jax.encoders import text_encoder
from ttt_jax.runtime import files


class TextCache:
  """Embeds texts and stores the embeddings.

  Memory contains the recent ones, the folder all of them, named by a hash of
  the text and the encoder's identity. Several processes may use one folder.
  """

  def __init__(
    self,
    encoder: text_encoder.TextEncoder,
    cache_bytes: int = 256 << 20,
    folder: str | os.PathLike[str] | None = None,
  ):
    """Creates an empty cache in memory.

    Args:
      encoder: Encoder of the texts.
      cache_bytes: Size of the embeddings to keep in memory.
      folder: Folder of the files; None writes none.
    """
    self._encoder = encoder
    self._bytes = cache_bytes
    self._folder = None if folder is None else pathlib.Path(folder)
    self._known: collections.OrderedDict[str, np.ndarray] = (
      collections.OrderedDict()
    )

  def encode(self, prompts: Sequence[str]) -> np.ndarray:
    """Returns the embeddings, float32 [len(prompts), L, Dt]."""
    fresh = [p for p in dict.fromkeys(prompts) if p not in self._known]
    for prompt in fresh:
      if (found := self._read(prompt)) is not None:
        self._known[prompt] = found
    fresh = [p for p in fresh if p not in self._known]
    if fresh:
      for prompt, embedding in zip(fresh, self._encoder.encode(fresh)):
        self._known[prompt] = embedding
        self._write(prompt, embedding)
    for prompt in prompts:
      self._known.move_to_end(prompt)
    out = np.stack([self._known[p] for p in prompts])
    keep = max(1, self._bytes // out[0].nbytes)
    while len(self._known) > keep:
      self._known.popitem(last=False)
    return out

  def _path(self, prompt: str) -> pathlib.Path | None:
    """Returns the file of an embedding; None if the cache has no folder."""
    if self._folder is None:
      return None
    encoder = self._encoder
    what = f'{encoder.identity}\n{encoder.text_length}\n{prompt}'
    name = hashlib.sha256(what.encode()).hexdigest()[:32]
    return self._folder / name[:2] / f'{name}.npy'

  def _read(self, prompt: str) -> np.ndarray | None:
    """Returns a stored embedding; None if it is missing or damaged."""
    if (path := self._path(prompt)) is None:
      return None
    try:
      # A map allocates nothing, whatever shape the header claims.
      found = np.load(path, mmap_mode='r', allow_pickle=False)
    except Exception:  # A damaged header raises any error of Python's parser.
      return None  # Writing reports a folder that cannot be used.
    shape = self._encoder.text_length, self._encoder.width
    if (found.shape, found.dtype) != (shape, np.float32):
      return None
    found = np.array(found)
    return found if np.isfinite(found).all() else None

  def _write(self, prompt: str, embedding: np.ndarray) -> None:
    if (path := self._path(prompt)) is None:
      return
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
      raise files.write_error(path, e) from e
    with files.atomic_write(path) as temporary, open(temporary, 'wb') as file:
      np.save(file, embedding, allow_pickle=False)
