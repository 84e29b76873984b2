"""Reads JSON and JSONL files; what is wrong has a line and a column."""

from __future__ import annotations

import json
import os
from typing import Any

from ttt_jax.runtime import paths


def read(path: str | os.PathLike[str]) -> Any:
  """The JSON value of a file; of a .jsonl file the list of its lines'.

  Raises:
    FileNotFoundError: no such file.
    ValueError: a folder, not UTF-8 or not JSON.
  """
  path = paths.resolve(path)
  if not path.is_file():
    raise ValueError(f'{path} is a folder; name a JSON or JSONL file')
  try:
    text = path.read_text('utf-8-sig')
  except UnicodeDecodeError as e:
    raise ValueError(
      f'{path} is not UTF-8 text: byte {e.start} cannot be read'
    ) from e
  lines = path.suffix == '.jsonl'
  parts = [(1, text)]
  if lines:
    parts = [
      (n, line) for n, line in enumerate(text.split('\n'), 1) if line.strip()
    ]
  values = []
  for first, part in parts:
    try:
      values.append(json.loads(part))
    except json.JSONDecodeError as e:
      raise ValueError(
        f'{path}: not JSON, line {e.lineno + first - 1}, column {e.colno}:'
        f' {e.msg}'
      ) from e
  return values if lines else values[0]
