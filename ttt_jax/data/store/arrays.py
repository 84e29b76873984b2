"""Layout of a data set on disk: TensorStore arrays and a manifest.

    DIR/manifest.json     written last; without it the data set is unfinished
    DIR/mean, DIR/logvar  [rows, F, h, w, c] float32, the diffusion model's
                          units, one zarr3 chunk a clip, with a checksum
    DIR/text              [rows, S, L, Dt] float32, one chunk a clip
    DIR/null_text         [L, Dt] float32, the embedding of no text
    DIR/clips/ROW.json    written after the row's arrays: this row is whole

The fill value is NaN, so that a chunk that was lost is not read as zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Any

from etils import epath
import tensorstore as ts

from ttt_jax.runtime import paths

ARRAYS = ('mean', 'logvar', 'text')
_CODECS = (
  {'name': 'bytes', 'configuration': {'endian': 'little'}},
  {'name': 'zstd', 'configuration': {'level': 1}},
  {'name': 'crc32c'},
)


class CorruptClipError(ValueError):
  """A stored clip that cannot be used; the message names it and the reason."""

  def __init__(self, name: str, reason: str):
    super().__init__(f'clip {name!r}: {reason}')
    self.name = name
    self.reason = reason


def spec(path: epath.Path) -> dict[str, Any]:
  """TensorStore's name of an array, on a disk or in a bucket."""
  if paths.in_bucket(path):
    return {'driver': 'zarr3', 'kvstore': os.fspath(path)}
  return {
    'driver': 'zarr3',
    'kvstore': {'driver': 'file', 'path': os.path.abspath(path)},
  }


def create(
  path: epath.Path, shape: Sequence[int], chunk: Sequence[int]
) -> ts.TensorStore:
  """Creates an array, or opens it if it is there."""
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
    return ts.open(spec(path), open=True).result()
  # `open`, too: another process may create it at this moment.
  return ts.open(
    {**spec(path), 'metadata': metadata}, open=True, create=True
  ).result()


def marker(folder: epath.Path, row: int) -> epath.Path:
  """The file that says that a row was written whole."""
  return folder / 'clips' / f'{row:06d}.json'
