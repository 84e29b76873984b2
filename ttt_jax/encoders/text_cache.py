"""Embeddings of texts, kept in memory and in a folder."""

from __future__ import annotations

import collections
from collections.abc import Sequence
import contextlib
import hashlib
import os
import pathlib

import numpy as np

from ttt_jax.encoders import text_encoder
from ttt_jax.runtime import files


class TextCache:
  """Embeddings of texts; what is known is not computed again.

  Recent ones are in memory; in a folder are all, under a hash of the text and
  of the encoder's identity. Several processes may use one folder.
  """

  def __init__(
    self,
    encoder: text_encoder.TextEncoder,
    cache_bytes: int = 256 << 20,
    folder: str | os.PathLike[str] | None = None,
  ):
    """Args: the encoder, bytes to keep in memory, folder of files or None."""
    self._encoder = encoder
    self._bytes = cache_bytes
    self._folder = None if folder is None else pathlib.Path(folder)
    self._known: collections.OrderedDict[str, np.ndarray] = (
      collections.OrderedDict()
    )

  def encode(self, prompts: Sequence[str]) -> np.ndarray:
    """float32 [len(prompts), L, Dt]."""
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

  def _path(self, prompt: str) -> pathlib.Path:
    encoder = self._encoder
    what = f'{encoder.identity}\n{encoder.text_length}\n{prompt}'
    name = hashlib.sha256(what.encode()).hexdigest()[:32]
    return self._folder / name[:2] / f'{name}.npy'

  def _read(self, prompt: str) -> np.ndarray | None:
    """None where there is no file, or only a damaged one."""
    if self._folder is None:
      return None
    try:
      found = np.load(self._path(prompt), allow_pickle=False)
    except (OSError, ValueError, EOFError):
      return None  # A folder that cannot be used fails when it is written.
    shape = self._encoder.text_length, self._encoder.width
    return found if found.shape == shape else None

  def _write(self, prompt: str, embedding: np.ndarray) -> None:
    if self._folder is None:
      return
    path = self._path(prompt)
    # Of this process alone, until it is whole.
    half = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      with open(half, 'wb') as file:
        np.save(file, embedding, allow_pickle=False)
      half.replace(path)
    except OSError as e:
      with contextlib.suppress(OSError):
        half.unlink()
      raise files.write_error(path, e) from e
