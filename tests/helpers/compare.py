"""How far arrays are apart."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def relative_error(got: Any, want: Any) -> float:
  """Returns max |got - want| / max |want| of two arrays of one shape."""
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert got.shape == want.shape, (got.shape, want.shape)
  return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))


def relative_errors(got: Any, want: Any) -> dict[str, float]:
  """Returns path -> relative error of each leaf of two equal trees."""
  errors = jax.tree.map(relative_error, got, want)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): error
    for path, error in jax.tree_util.tree_leaves_with_path(errors)
  }
