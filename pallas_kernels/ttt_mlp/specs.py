"""Arguments of `ttt_mlp` at the sizes of real models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.specs import random_sequence
from pallas_kernels.specs import Spec

NAMES = (
  'q',
  'k',
  'v',
  'eta',
  'w1',
  'b1',
  'w2',
  'b2',
  'ln_scale',
  'ln_bias',
)  # In the order of the call.


def shapes(
  spec: Spec, dtype: jnp.dtype = jnp.float32
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns name -> shape and dtype; states have no B."""
  rows = (spec.batch, spec.heads, spec.tokens)
  h, d, k = spec.heads, spec.head_dim, spec.hidden
  sizes = (
    (*rows, d),
    (*rows, d),
    (*rows, d),
    rows,
    (h, d, k),
    (h, k),
    (h, k, d),
    (h, d),
    (h, d),
    (h, d),
  )
  return {
    name: jax.ShapeDtypeStruct(size, dtype) for name, size in zip(NAMES, sizes)
  }


def random_arguments(
  spec: Spec, seed: int = 0, deviation: float = 0.02
) -> dict[str, np.ndarray]:
  """Returns name -> float64 array in the order of the call.

  Args:
    spec: sizes.
    seed: seed of NumPy's generator.
    deviation: standard deviation of weights and biases; the paper initialises
      with 0.02.
  """
  rng = np.random.default_rng([seed, 1])
  arguments = random_sequence(spec, seed)
  for name in ('w1', 'b1', 'w2', 'b2'):
    arguments[name] = deviation * rng.standard_normal(shapes(spec)[name].shape)
  return {name: arguments[name] for name in NAMES}
