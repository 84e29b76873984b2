"""Identities of models: the same for the same contents, wherever they are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import jax
import numpy as np


def content_identity(kind: str, config: Any, params: Any) -> str:
  """'kind:hash' of a configuration and all weights, by content.

  Args:
    kind: name of the architecture.
    config: dataclass of the model.
    params: tree of arrays.

  The same weights give the same identity wherever their file lies; one
  changed weight or configuration value gives another.
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
