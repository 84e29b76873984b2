"""The sequence as the kernels read it."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Tokens(NamedTuple):
  """The sequence, or its cotangents; as arrays, refs or blocks."""

  q: jax.Array  # [B, T, packs 128]
  k: jax.Array  # [B, T, packs 128]
  v: jax.Array  # [B, T, packs 128]
  eta: jax.Array  # [B, T, H]
