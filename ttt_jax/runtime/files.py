"""Files that are written completely or not at all."""

from __future__ import annotations

import json
import os
import re
from typing import Any
import uuid

from etils import epath

from ttt_jax.runtime import paths


def write_json(value: Any, path: epath.Path) -> None:
  """Writes JSON whole or not at all: by a rename, or as one object.

  Raises:
    ValueError: the file cannot be written, for example on a full disk.
  """
  if paths.in_bucket(path):
    try:
      path.write_text(json.dumps(value, indent=1))
    except OSError as e:
      raise write_error(path, e) from e
    return
  # A name of its own: several processes may write the same file.
  partial = path.with_name(f'{path.name}.{uuid.uuid4().hex[:12]}.tmp')
  try:
    with open(partial, 'w') as f:
      json.dump(value, f, indent=1)
      f.flush()
      os.fsync(f.fileno())
    os.replace(partial, path)
  except OSError as e:
    partial.unlink(missing_ok=True)
    raise write_error(path, e) from e


def write_error(path: epath.Path, error: Exception) -> ValueError:
  """The one line a user reads when a write fails."""
  reason = getattr(error, 'strerror', None)
  reason = reason or first_line(error).rsplit(': ', 1)[-1]
  return ValueError(
    f'could not write {path}: {reason}; free some space (or'
    ' choose another folder) and run precompute again, it goes on where it'
    ' stopped'
  )


def first_line(error: Exception) -> str:
  """An error's text without the trailing details of its library."""
  # TensorStore ends its messages with ' [os_error_code=...]' and the like.
  text = re.split(r' \[\w+=', str(error).strip().split('\n')[0])[0]
  return text or type(error).__name__
