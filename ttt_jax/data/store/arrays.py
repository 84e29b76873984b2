"""Layout of a data set on disk: TensorStore arrays and a manifest.

    DIR/manifest.json     written last; without it the data set is unfinished
    DIR/mean, DIR/logvar  [rows, F, h, w, c] float32, in the diffusion model's
                          units, one zarr3 chunk per clip, with a checksum
    DIR/text              [rows, S, L, Dt] float32, one chunk per clip
    DIR/null_text         [L, Dt] float32, the embedding of the empty text
    DIR/clips/ROW.json    written after the row's arrays: the row is complete

The fill value is NaN, so that a lost chunk is not read as zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
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
    'kvstore': {'driver': 'file', 'path': os.path.abspath(path)},
  }


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
    return ts.open(spec(path), open=True).result()
  # `open`, too: another process may create it at this moment.
  return ts.open(
    {**spec(path), 'metadata': metadata}, open=True, create=True
  ).result()


def completion_marker(folder: epath.Path, row: int) -> epath.Path:
  """Returns the path of the file that marks a row as complete."""
  return folder / 'clips' / f'{row:06d}.json'


def read_marker(folder: epath.Path, row: int) -> dict[str, Any]:
  """Returns the fields of a row's marker; empty if there is none."""
  try:
    fields = json.loads(completion_marker(folder, row).read_text())
  except (OSError, ValueError):
    return {}
  return fields if isinstance(fields, dict) else {}
