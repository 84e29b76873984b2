"""Identities of encoders: equal for equal contents, wherever the files are."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from ttt_jax.convert import safetensors_reader


def content_identity(kind: str, config: Any, params: Any) -> str:
  """Returns 'kind:hash' of a config and all weights.

  Args:
    kind: Name of the architecture.
    config: Dataclass with the config of the model.
    params: Tree of arrays.
  """
  digest = hashlib.sha256()
  fields = dataclasses.asdict(config)
  digest.update(json.dumps(fields, sort_keys=True, default=str).encode())
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
  for name in sorted(named):
    value = np.ascontiguousarray(named[name])
    digest.update(f'{name} {value.dtype} {value.shape}'.encode())
    digest.update(value.tobytes())
  return f'{kind}:{digest.hexdigest()[:16]}'


def combined_identity(kind: str, *digests: bytes) -> str:
  """Returns 'kind:hash' of several digests."""
  return f'{kind}:{hashlib.sha256(b"".join(digests)).hexdigest()[:16]}'


def file_digest(path: pathlib.Path) -> bytes:
  """Returns the digest of a file."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').digest()


def tensors_digest(
  tensors: Mapping[str, safetensors_reader.Tensor],
) -> bytes:
  """Returns the digest of weights, however they are distributed over files."""
  digest = hashlib.sha256()
  for key in sorted(tensors):
    tensor = tensors[key]
    if isinstance(tensor.dtype, str):
      continue  # Not a weight: old files contain the numbers 0, 1, 2, ...
    digest.update(f'{key} {tensor.dtype} {tensor.shape}'.encode())
    digest.update(np.ascontiguousarray(tensor).view(np.uint8).data)
  return digest.digest()
