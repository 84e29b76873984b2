"""Reads a data set of latents; `arrays` describes its layout."""

from __future__ import annotations

from collections.abc import Mapping
import operator
import os
from typing import Any

from etils import epath
import numpy as np
import tensorstore as ts

from ttt_jax.data.store import arrays
from ttt_jax.data.store import manifest as manifest_lib


class LatentDataset:
  """A finished data set, read lazily: `len`, `[i]`, `manifest`, `null_text`.

  Decoded clips are cached up to `cache_bytes`, and the least recently used
  ones are dropped first: a small data set is read once.
  """

  def __init__(
    self, folder: str | os.PathLike[str], cache_bytes: int = 256 << 20
  ):
    """Opens a data set; reads no clip yet.

    Raises:
      FileNotFoundError: there is no data set.
      ValueError: it is unfinished, or its arrays do not fit its manifest.
    """
    self.folder = epath.Path(folder)
    self.manifest = manifest_lib.read_manifest(folder)
    context = ts.Context({'cache_pool': {'total_bytes_limit': cache_bytes}})

    def open_array(name):
      try:
        return arrays.open_array(
          self.folder / name,
          read=True,
          context=context,
          recheck_cached_data='open',
          recheck_cached_metadata='open',
        )
      except ValueError as e:
        raise ValueError(
          f'array {name!r} of the data set in {self.folder} {e}; delete the'
          ' folder and run precompute again'
        ) from e

    self._arrays = {name: open_array(name) for name in arrays.ARRAYS}
    self._null_text = open_array('null_text')
    self._check_shapes()

  def _check_shapes(self) -> None:
    m = self.manifest
    mean, logvar, text = (self._arrays[name].shape for name in arrays.ARRAYS)
    rows = 1 + max((c['row'] for c in m.clips), default=-1)
    checks = (
      ('clips', min(mean[0], logvar[0], text[0]) >= rows),
      ('mean and logvar', mean == logvar),
      ('segments and text_length', text[1:3] == (m.segments, m.text_length)),
      ('null_text', self._null_text.shape == text[2:]),
    )
    wrong = [name for name, passed in checks if not passed]
    if wrong:
      raise ValueError(
        f'the arrays in {self.folder} do not fit its manifest'
        f' ({", ".join(wrong)}): mean {list(mean)}, logvar {list(logvar)},'
        f' text {list(text)}; delete the folder and run precompute again'
      )

  def __len__(self) -> int:
    return len(self.manifest.clips)

  def name(self, index: int) -> str:
    """Returns the name of a clip."""
    return self.manifest.clips[index]['name']

  @property
  def latent_shape(self) -> tuple[int, ...]:
    """Shape of a clip's latents, (F, h, w, c)."""
    return tuple(self._arrays['mean'].shape[1:])

  @property
  def text_shape(self) -> tuple[int, ...]:
    """Shape of a clip's text embeddings, (S, L, Dt)."""
    return tuple(self._arrays['text'].shape[1:])

  @property
  def null_text(self) -> np.ndarray:
    """Embedding of the empty text, [L, Dt] float32."""
    value = self._read('null_text', {'null_text': self._null_text})
    return value['null_text']

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns a clip.

    Returns:
      mean and logvar [F, h, w, c], text [S, L, Dt], clip (int32 index).

    Raises:
      CorruptClipError: it cannot be read or is not finite.
      IndexError: the clip does not exist.
    """
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(f'clip {index} of {len(self)}')
    clip = self.manifest.clips[index]
    rows = {name: self._arrays[name][clip['row']] for name in arrays.ARRAYS}
    return {**self._read(clip['name'], rows), 'clip': np.int32(index)}

  def _read(
    self, clip: str, views: Mapping[str, ts.TensorStore]
  ) -> dict[str, np.ndarray]:
    values, problems = arrays.read(views)
    if problems:
      raise arrays.CorruptClipError(clip, problems[0])
    return values
