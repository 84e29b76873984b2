"""Sizes of an inner-loop call, and random arguments of those sizes."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Spec:
  """Sizes of one call; shared by tests and benchmarks.

  Attributes:
    batch: B.
    heads: H.
    tokens: T.
    head_dim: D.
    hidden: K of the inner MLP; TTT-Linear ignores it.
    mini_batch: C.
  """

  batch: int
  heads: int
  tokens: int
  head_dim: int
  hidden: int
  mini_batch: int = 64


# The paper's 5B model at 63 s of 480x720 video (352 008 tokens) and at 3 s,
# one video each; the quickstart at 3 s (with few and with many text tokens per
# segment) and at 63 s of 64x96 video.
SPECS = {
  'paper_63s': Spec(1, 48, 352008, 64, 256),
  'paper_3s': Spec(1, 48, 18048, 64, 256),
  'quickstart_3s': Spec(4, 4, 320, 32, 128),
  'quickstart_3s_long_text': Spec(2, 4, 984, 32, 128),
  'quickstart_63s': Spec(2, 4, 6240, 32, 128),
  'benchmark': Spec(1, 8, 16384, 64, 256),
}


def random_sequence(spec: Spec, seed: int) -> dict[str, np.ndarray]:
  """Returns name -> float64 array, distributed like the arguments of a layer.

  q, k have unit norm, v - k is of order 1, eta is base_lr * sigmoid / D / C
  with base_lr 0.1; ln_scale is around 1.

  Args:
    spec: sizes.
    seed: seed of NumPy's generator.
  """
  rng = np.random.default_rng(seed)
  rows = (spec.batch, spec.heads, spec.tokens)
  norms = (spec.heads, spec.head_dim)

  def unit():
    x = rng.standard_normal((*rows, spec.head_dim))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)

  q, k = unit(), unit()
  gate = 1 / (1 + np.exp(-rng.standard_normal(rows)))
  return {
    'q': q,
    'k': k,
    'v': k + rng.standard_normal((*rows, spec.head_dim)),
    'eta': 0.1 * gate / spec.head_dim / spec.mini_batch,
    'ln_scale': 1 + 0.1 * rng.standard_normal(norms),
    'ln_bias': 0.1 * rng.standard_normal(norms),
  }
