"""Argument types that all implementations of an inner loop share."""

from __future__ import annotations

from typing import Any, NamedTuple

# An array, or in kernels its reference, block or shape.
Array = Any


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

  q: Array
  k: Array
  v: Array
  eta: Array


class Norm(NamedTuple):
  """Scale and bias of LayerNorm, or their cotangents.

  [H, D] in the public functions; each backend repeats or packs them.
  """

  scale: Array
  bias: Array
