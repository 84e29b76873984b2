"""The arguments of an inner loop, in the groups in which they travel."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Tokens(NamedTuple):
  """A sequence or a part of it, or its cotangents; as arrays, refs or blocks.

  The axes are [B, H, T, D] and, of eta, [B, H, T] in the public functions and
  in the portable loop, and those of `tpu/layout.py` in the TPU kernels.

  Attributes:
    q: queries.
    k: keys.
    v: values: the targets of the inner loss plus the keys.
    eta: step size of each token.
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  eta: jax.Array


class Norm(NamedTuple):
  """Scale and bias of LayerNorm, or their cotangents.

  [H, D] in the public functions; each backend repeats or packs them.
  """

  scale: jax.Array
  bias: jax.Array
