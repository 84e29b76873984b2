"""Writes a data set of latents, clip by clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os

from etils import epath
import numpy as np
import tensorstore as ts

from ttt_jax.data.store import arrays
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.runtime import files


class LatentWriter:
  """Writes a data set clip by clip; resumes one that is unfinished.

  `is_done` finds clips that were written before under the same identity. The
  first write removes the final manifest of a finished data set and `finish`
  writes the new one: a reader never sees part of a change.

  Several processes may write to one folder, each its own rows. Everything else
  they do in the same way, by renames; the process that finds all rows settled
  finishes the data set.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    manifest: manifest_lib.Manifest,
    rows: int,
  ):
    """Opens a data set, or creates it.

    Args:
      folder: Folder of the data set.
      manifest: Identity of the data set; `clips` and `corrupt` are ignored.
      rows: Number of clips of the finished data set.

    Raises:
      ValueError: the folder has a data set of another identity, or cannot be
        written.
      FileExistsError: the folder has other contents.
    """
    self.folder = epath.Path(folder)
    self._identity = dataclasses.replace(manifest, clips=(), corrupt=())
    self._rows = rows
    self._arrays: dict[str, ts.TensorStore] = {}
    self._final = self.folder / manifest_lib.FINAL
    self._unfinished = self.folder / manifest_lib.UNFINISHED
    if self._load_manifest() is None:
      self._create()
    self._check_identity()
    self._drop_extra_rows()

  def _load_manifest(self) -> manifest_lib.Manifest | None:
    """Returns the folder's present manifest, finished or not."""
    # The final one twice: another process may rename between the two reads.
    for path in (self._final, self._unfinished, self._final):
      try:
        return manifest_lib.load(path)
      except FileNotFoundError:
        continue
    return None

  def _check_identity(self) -> None:
    """Raises ValueError if the folder has a data set of another identity."""
    found = self._load_manifest()
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
        f'{self.folder} has a data set of another identity: {wrong}; choose'
        ' another folder or delete this one'
      )

  def _create(self) -> None:
    """Creates an unfinished data set in a new or empty folder."""
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      # An empty folder in a bucket does not exist.
      found = self.folder.iterdir() if self.folder.exists() else ()
      # File systems and desktops put hidden files into empty folders.
      has_other_files = any(not p.name.startswith('.') for p in found)
    except OSError as e:
      raise files.write_error(self.folder, e) from e
    # Another process may have created it a moment ago, its manifest first.
    if self._load_manifest() is not None:
      return
    if has_other_files:
      raise FileExistsError(
        f'{self.folder} is not empty and has no data set; choose an empty or a'
        ' new folder'
      )
    manifest_lib.save(self._identity, self._unfinished)

  def _drop_extra_rows(self) -> None:
    """Drops the rows that a shorter list of clips no longer has."""
    for row in arrays.marked_rows(self.folder):
      if row >= self._rows:
        self._reopen()
        arrays.completion_marker(self.folder, row).unlink(missing_ok=True)

  def _reopen(self) -> None:
    """Makes a finished data set unfinished, by one rename."""
    try:
      self._final.replace(self._unfinished)
    except FileNotFoundError:
      pass  # It was unfinished, or another process was faster.

  @property
  def finished(self) -> bool:
    """Whether the data set is complete at present."""
    return self._final.exists()

  def is_done(self, row: int, fingerprint: str) -> bool:
    """Returns whether a row was written completely from the same source."""
    return self.settled(row, fingerprint) == ''

  def settled(self, row: int, fingerprint: str) -> str | None:
    """Returns the outcome of a row of this source.

    Returns:
      '' if the row is complete, the reason if it was left out, None if no
      process has settled it.
    """
    marker = arrays.read_marker(self.folder, row)
    if marker.get('fingerprint') != fingerprint:
      return None
    return marker.get('left_out', '')

  def leave_out(
    self, row: int, name: str, fingerprint: str, reason: str
  ) -> None:
    """Records that a clip cannot be encoded; `is_done` stays False."""
    if self.settled(row, fingerprint) == reason:
      return  # A previous run has recorded it.
    self._reopen()
    self._mark(row, name=name, fingerprint=fingerprint, left_out=reason)

  def _mark(self, row: int, **fields: str) -> None:
    marker = arrays.completion_marker(self.folder, row)
    marker.parent.mkdir(exist_ok=True)
    files.write_json(fields, marker)

  def _array(self, name: str, clip_shape: Sequence[int]) -> ts.TensorStore:
    """Returns the array of all rows; creates or resizes it on first use."""
    if name in self._arrays:
      return self._arrays[name]
    path = self.folder / name
    try:
      array = arrays.create(path, (self._rows, *clip_shape), (1, *clip_shape))
      if array.shape[0] != self._rows:
        unchanged = [None] * (array.rank - 1)
        array = array.resize(exclusive_max=[self._rows, *unchanged]).result()
    except (ValueError, OSError) as e:
      raise files.write_error(path, e) from e
    if array.shape[1:] != tuple(clip_shape):
      raise ValueError(
        f'{path} has clips of shape {list(array.shape[1:])}, but this run has'
        f' {list(clip_shape)}; choose another folder or delete this one'
      )
    self._arrays[name] = array
    return array

  def write(
    self, row: int, name: str, fingerprint: str, **values: np.ndarray
  ) -> None:
    """Writes one clip, then marks it as complete.

    Args:
      row: Row of the arrays.
      name: Name of the clip, for messages.
      fingerprint: Fingerprint of its source, see `is_done`.
      **values: mean and logvar [F, h, w, c], text [S, L, Dt].

    Raises:
      CorruptClipError: a value is not finite; nothing was written.
      ValueError: it cannot be written, for example on a full disk.
    """
    for key in arrays.ARRAYS:
      if not np.isfinite(values[key]).all():
        raise arrays.CorruptClipError(name, f'{key} is not finite')
    self._reopen()
    arrays.completion_marker(self.folder, row).unlink(missing_ok=True)
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
    """Writes the embedding of the empty text, [L, Dt]."""
    path = self.folder / 'null_text'
    try:
      array = arrays.create(path, null_text.shape, null_text.shape)
      array.write(np.asarray(null_text, np.float32)).result()
    except (ValueError, OSError) as e:
      raise files.write_error(path, e) from e

  def finish(
    self,
    clips: Sequence[manifest_lib.Clip],
    corrupt: Sequence[manifest_lib.CorruptClip] = (),
    conversions: Mapping[str, Sequence[str]] | None = None,
  ) -> manifest_lib.Manifest:
    """Writes the manifest; see `Manifest` for its arguments.

    Raises:
      ValueError: another run changed the identity of the data set, or it
        cannot be written.
    """
    self._check_identity()
    manifest = dataclasses.replace(
      self._identity,
      clips=tuple(clips),
      corrupt=tuple(corrupt),
      conversions=conversions or {},
    )
    for clip in clips:
      if not arrays.completion_marker(self.folder, clip['row']).exists():
        raise RuntimeError(f'finish before {clip["name"]!r} was written')
    manifest_lib.save(manifest, self._final)
    self._unfinished.unlink(missing_ok=True)
    return manifest
