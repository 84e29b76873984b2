"""Writes a data set of latents, clip by clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
from typing import Any

from etils import epath
import numpy as np
import tensorstore as ts

from ttt_jax.data.store import arrays
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.runtime import files


class LatentWriter:
  """Writes a data set clip by clip; stopped and opened again it goes on.

  Clips written before under the same identity are found by `is_done`. The
  first write takes the final manifest of a finished data set away, `finish`
  puts the new one in place: no reader ever sees half of a change.

  Several processes may write to one folder, each its own rows: everything
  else they do to it, they do alike, by renames. Whoever finds all rows
  settled finishes it.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    manifest: manifest_lib.Manifest,
    rows: int,
  ):
    """Opens or continues a data set.

    Args:
      folder: where it lies.
      manifest: its identity; `clips` and `corrupt` are ignored.
      rows: clips that it shall hold.

    Raises:
      ValueError: the folder holds a data set of another identity, or cannot
        be written.
      FileExistsError: the folder holds something else.
    """
    self.folder = epath.Path(folder)
    self._identity = dataclasses.replace(manifest, clips=(), corrupt=())
    self._rows = rows
    self._arrays: dict[str, ts.TensorStore] = {}
    self._final = self.folder / manifest_lib.FINAL
    self._unfinished = self.folder / manifest_lib.UNFINISHED
    if self._found() is None:
      self._start()
    self._check_identity()
    self._drop_rows_beyond()

  def _found(self) -> manifest_lib.Manifest | None:
    """The manifest that the folder has now."""
    # A third look: another process may rename one to the other meanwhile.
    for path in (self._final, self._unfinished, self._final):
      try:
        return manifest_lib.load(path)
      except FileNotFoundError:
        continue
    return None

  def _check_identity(self) -> None:
    """Raises ValueError if the folder holds a data set of another kind."""
    found = self._found()
    if found is None:
      raise ValueError(
        f'{self.folder} lost its manifest while this run wrote to it; delete'
        ' the folder and run precompute again'
      )
    wrong = manifest_lib.differences(
      found.identity(), self._identity.identity()
    )
    if wrong:
      raise ValueError(
        f'{self.folder} holds a data set of another kind: {wrong}; choose'
        ' another folder or delete this one'
      )

  def _start(self) -> None:
    """Makes an unfinished data set of a new or empty folder."""
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      # An empty folder of a bucket is none.
      there = self.folder.iterdir() if self.folder.exists() else ()
      strange = any(p.suffix != '.tmp' for p in there)
    except OSError as e:
      raise files.write_error(self.folder, e) from e
    # Another process may have begun a moment ago: its manifest came first.
    if self._found() is not None:
      return
    if strange:
      raise FileExistsError(
        f'{self.folder} is not empty and holds no data set; choose an'
        ' empty or a new folder'
      )
    manifest_lib.save(self._identity, self._unfinished)

  def _drop_rows_beyond(self) -> None:
    """Forgets the rows that a shorter list of clips no longer has."""
    for marker in (self.folder / 'clips').glob('*.json'):
      if int(marker.stem) >= self._rows:
        self._reopen()
        marker.unlink(missing_ok=True)

  def _reopen(self) -> None:
    """From finished to unfinished, in one rename."""
    try:
      self._final.replace(self._unfinished)
    except FileNotFoundError:
      pass  # It was not finished, or another process was faster.

  @property
  def finished(self) -> bool:
    """Whether the folder holds a whole data set now."""
    return self._final.exists()

  def is_done(self, row: int, fingerprint: str) -> bool:
    """Whether this row was written whole from the same source."""
    return self.settled(row, fingerprint) == ''

  def settled(self, row: int, fingerprint: str) -> str | None:
    """What became of a row of this source.

    Returns:
      '' if it was written whole, the reason if it was left out, None if no
      process is done with it.
    """
    try:
      found = json.loads(arrays.marker(self.folder, row).read_text())
    except (OSError, ValueError):
      return None
    if found.get('fingerprint') != fingerprint:
      return None
    return found.get('left_out', '')

  def leave_out(
    self, row: int, name: str, fingerprint: str, reason: str
  ) -> None:
    """Records that a clip cannot be made; `is_done` stays False."""
    if self.settled(row, fingerprint) == reason:
      return  # As the run before found.
    self._reopen()
    self._mark(row, name=name, fingerprint=fingerprint, left_out=reason)

  def _mark(self, row: int, **fields: str) -> None:
    marker = arrays.marker(self.folder, row)
    marker.parent.mkdir(exist_ok=True)
    files.write_json(fields, marker)

  def _array(self, name: str, clip_shape: Sequence[int]) -> ts.TensorStore:
    """The array of all rows, created, opened or resized on first use."""
    if name in self._arrays:
      return self._arrays[name]
    path = self.folder / name
    try:
      array = arrays.create(path, (self._rows, *clip_shape), (1, *clip_shape))
      if array.shape[0] != self._rows:
        free = [None] * (array.rank - 1)
        array = array.resize(exclusive_max=[self._rows, *free]).result()
    except (ValueError, OSError) as e:
      raise files.write_error(path, e) from e
    if array.shape[1:] != tuple(clip_shape):
      raise ValueError(
        f'{path} holds clips of shape {list(array.shape[1:])}, this run'
        f' makes {list(clip_shape)}; choose another folder or delete this'
        ' one'
      )
    self._arrays[name] = array
    return array

  def write(
    self, row: int, name: str, fingerprint: str, **values: np.ndarray
  ) -> None:
    """Writes one clip, then marks it as whole.

    Args:
      row: of the arrays.
      name: of the clip, for messages.
      fingerprint: of its source, see `is_done`.
      **values: mean and logvar [F, h, w, c], text [S, L, Dt].

    Raises:
      CorruptClipError: a value is not finite; nothing was written.
      ValueError: it cannot be written, for example on a full disk.
    """
    for key in arrays.ARRAYS:
      if not np.isfinite(values[key]).all():
        raise arrays.CorruptClipError(name, f'{key} is not finite')
    marker = arrays.marker(self.folder, row)
    self._reopen()
    marker.unlink(missing_ok=True)
    stores = {key: self._array(key, values[key].shape) for key in arrays.ARRAYS}
    try:
      pending = [
        store[row].write(np.asarray(values[key], np.float32))
        for key, store in stores.items()
      ]
      for write in pending:
        write.result()
    except (ValueError, OSError) as e:
      raise files.write_error(self.folder, e) from e
    self._mark(row, name=name, fingerprint=fingerprint)

  def write_null_text(self, null_text: np.ndarray) -> None:
    """Writes the embedding of no text [L, Dt]."""
    path = self.folder / 'null_text'
    try:
      array = arrays.create(path, null_text.shape, null_text.shape)
      array.write(np.asarray(null_text, np.float32)).result()
    except (ValueError, OSError) as e:
      raise files.write_error(path, e) from e

  def finish(
    self,
    clips: Sequence[Mapping[str, Any]],
    corrupt: Sequence[Mapping[str, Any]] = (),
  ) -> manifest_lib.Manifest:
    """Makes the data set whole; see `Manifest` for the two lists.

    Raises:
      ValueError: the folder became a data set of another kind, or cannot be
        written.
    """
    self._check_identity()
    manifest = dataclasses.replace(
      self._identity, clips=tuple(clips), corrupt=tuple(corrupt)
    )
    for clip in clips:
      if not arrays.marker(self.folder, clip['row']).exists():
        raise RuntimeError(f'finish before {clip["name"]!r} was written')
    manifest_lib.save(manifest, self._final)
    self._unfinished.unlink(missing_ok=True)
    return manifest
