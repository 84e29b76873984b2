"""A permutation of rows as slices and flips, for any backend."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.permute_rows.permutation import Permutation
from pallas_kernels.permute_rows.permutation import Run


def permute_rows(x: jax.Array, permutation: Permutation) -> jax.Array:
  """Implements `api.permute_rows`.

  A slice copies a run at once; a gather would look up each row.
  """
  return jnp.concatenate([_rows(x, run) for run in permutation.runs], axis=1)


def _rows(x: jax.Array, run: Run) -> jax.Array:
  if run.step > 0:
    return x[:, run.start : run.start + run.length]
  return jnp.flip(x[:, run.start - run.length + 1 : run.start + 1], axis=1)
