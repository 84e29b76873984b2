"""Layout of a data set on disk: TensorStore arrays and a manifest.

    DIR/manifest.json     written last; without it the data set is unfinished
    DIR/mean, DIR/logvar  [rows, F, h, w, c] float32, in the diffusion model's
                          units, one zarr3 chunk per clip, with a checksum
    DIR/text              [rows, S, L, Dt] float32, one chunk per clip
    DIR/null_text         [L, Dt] float32, the embedding of the empty text
    DIR/clips/ROW.json    written after the row's arrays: the row is complete

The fill value is NaN, so that a lost chunk is not read as zeros. A file is
replaced by a rename, and each row is written by one process, so nothing is
locked: some file systems (Lustre, FUSE) have no locks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
import os
import re
from typing import Any, Literal

from etils import epath
import msgspec
import numpy as np
import tensorstore as ts

from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import schema

ARRAYS = ('mean', 'logvar', 'text')
# Axes of the arrays.
RANKS = {'mean': 5, 'logvar': 5, 'text': 4, 'null_text': 2}
# Values of one clip in one array: 1 GB, ten times a clip of 63 s.
_MAX_VALUES = 2**28
_CODECS = (
  {'name': 'bytes', 'configuration': {'endian': 'little'}},
  {'name': 'zstd', 'configuration': {'level': 1}},
  {'name': 'crc32c'},
)


class _ChunkShape(msgspec.Struct):
  chunk_shape: tuple[int, ...]


class _ChunkGrid(msgspec.Struct):
  configuration: _ChunkShape


class _Codec(msgspec.Struct):
  name: Literal['bytes', 'zstd', 'gzip', 'blosc', 'crc32c']


class _Metadata(msgspec.Struct):
  """The fields of a zarr.json on which reading depends."""

  shape: tuple[schema.NonNegativeInt, ...]
  data_type: Literal['float32']
  fill_value: Literal['NaN']
  chunk_grid: _ChunkGrid
  codecs: tuple[_Codec, ...]


class CorruptClipError(ValueError):
  """A stored clip that cannot be used; the message names clip and reason."""

  def __init__(self, name: str, reason: str):
    super().__init__(f'clip {name!r}: {reason}')
    self.name = name
    self.reason = reason


def spec(path: epath.Path) -> dict[str, Any]:
  """Returns the TensorStore spec of an array, on a disk or in a bucket."""
  if paths.is_remote(path):
    return {'driver': 'zarr3', 'kvstore': os.fspath(path)}
  return {
    'driver': 'zarr3',
    'kvstore': {
      'driver': 'file',
      'path': os.path.abspath(path),
      'context': {'file_io_locking': {'mode': 'none'}},
    },
  }


def open_array(path: epath.Path, **options: Any) -> ts.TensorStore:
  """Opens an array after a check that its chunks are clips of a valid size.

  Args:
    path: Folder of the array; its name is a key of `RANKS`.
    **options: Options of `ts.open`.

  Raises:
    ValueError: it cannot be opened, or has another layout.
  """
  try:
    value = files.parse_json((path / 'zarr.json').read_text(), 'zarr.json')
    metadata = schema.convert(value, _Metadata, 'zarr.json')
    shape, rank = metadata.shape, RANKS[path.name]
    clip = shape if rank == 2 else (1, *shape[1:])
    if len(shape) != rank or not 0 < math.prod(clip) <= _MAX_VALUES:
      raise ValueError(
        f'it has the shape {list(shape)[:9]}; expected {rank} axes and at most'
        f' {_MAX_VALUES} values per clip'
      )
    if (chunk := metadata.chunk_grid.configuration.chunk_shape) != clip:
      raise ValueError(
        f'it has chunks of {list(chunk)[:9]}; expected {list(clip)}'
      )
    return ts.open(spec(path), open=True, **options).result()
  except (ValueError, FileNotFoundError) as e:
    raise ValueError(f'cannot be opened: {files.first_line(e)}') from e


def read(
  views: Mapping[str, ts.TensorStore],
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Reads arrays at the same time.

  Args:
    views: Name -> array, or a part of it.

  Returns:
    The intact ones, and the problems of the others.
  """
  values, problems = {}, []
  for name, pending in {k: view.read() for k, view in views.items()}.items():
    try:
      value = pending.result()
    except (ValueError, OSError, IndexError) as e:
      problems.append(f'{name} cannot be read: {files.first_line(e)}')
      continue
    bad = ~np.isfinite(value)
    count = np.count_nonzero(bad)
    if not count:
      values[name] = value
    elif count == value.size:  # The fill value is NaN.
      problems.append(f'{name} was never written, or is lost')
    else:
      first = [int(i) for i in np.unravel_index(bad.argmax(), bad.shape)]
      problems.append(
        f'{name}: {count} of {value.size} values are not finite, the first at'
        f' {first}'
      )
  return values, problems


def create(
  path: epath.Path, shape: Sequence[int], chunk: Sequence[int]
) -> ts.TensorStore:
  """Creates an array, or opens it if it exists."""
  metadata = {
    'shape': list(shape),
    'data_type': 'float32',
    'fill_value': 'NaN',
    'chunk_grid': {
      'name': 'regular',
      'configuration': {'chunk_shape': list(chunk)},
    },
    'codecs': list(_CODECS),
  }
  if (path / 'zarr.json').exists():
    return open_array(path)
  # `open`, too: another process may create it at this moment.
  return ts.open(
    {**spec(path), 'metadata': metadata}, open=True, create=True
  ).result()


def completion_marker(folder: epath.Path, row: int) -> epath.Path:
  """Returns the path of the file that marks a row as complete."""
  return folder / 'clips' / f'{row:06d}.json'


def read_marker(folder: epath.Path, row: int) -> dict[str, str]:
  """Returns the fields of a row's marker; empty if there is none."""
  path = completion_marker(folder, row)
  try:
    fields = files.parse_json(path.read_text(), path)
    return schema.convert(fields, dict[str, str], 'it')
  except (OSError, ValueError):
    return {}


def marked_rows(folder: epath.Path) -> list[int]:
  """Returns the rows that have a marker, in order."""
  stems = [path.stem for path in (folder / 'clips').glob('*.json')]
  return sorted(int(stem) for stem in stems if re.fullmatch(r'\d{6,9}', stem))
