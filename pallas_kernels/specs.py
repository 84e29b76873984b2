"""Sizes of an inner-loop call, and arguments of those sizes."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp
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


def argument_shapes(
  spec: Spec,
  dtype: jnp.dtype = jnp.float32,
  *,
  weights: Mapping[str, str],
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns name -> shape and dtype in the order of the call; weights lack B.

  Args:
    spec: sizes.
    dtype: dtype of all arguments.
    weights: name of each weight -> letters of its shape, such as 'HDK'.
  """
  letters = {
    **dict(q='BHTD', k='BHTD', v='BHTD', eta='BHT'),
    **weights,
    **dict(ln_scale='HD', ln_bias='HD'),
  }
  sizes = dict(
    B=spec.batch, H=spec.heads, T=spec.tokens, D=spec.head_dim, K=spec.hidden
  )
  return {
    name: jax.ShapeDtypeStruct([sizes[x] for x in letters[name]], dtype)
    for name in letters
  }


def random_arguments(
  spec: Spec,
  seed: int = 0,
  deviation: float = 0.02,
  *,
  weights: Mapping[str, str],
) -> dict[str, np.ndarray]:
  """Returns name -> float64 array, distributed like the arguments of a layer.

  q, k have unit norm, v - k is of order 1, eta is base_lr * sigmoid / D / C
  with base_lr 0.1; ln_scale is around 1.

  Args:
    spec: sizes.
    seed: seed of NumPy's generator.
    deviation: standard deviation of the weights; the paper initialises with
      0.02.
    weights: name of each weight -> letters of its shape, such as 'HDK'.
  """
  shapes = argument_shapes(spec, weights=weights)
  rng = np.random.default_rng(seed)

  def normal(name):
    return rng.standard_normal(shapes[name].shape)

  def unit(name):
    x = normal(name)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)

  arguments = {'q': unit('q'), 'k': unit('k')}
  gate = 1 / (1 + np.exp(-normal('eta')))
  arguments |= {
    'v': arguments['k'] + normal('v'),
    'eta': 0.1 * gate / spec.head_dim / spec.mini_batch,
    'ln_scale': 1 + 0.1 * normal('ln_scale'),
    'ln_bias': 0.1 * normal('ln_bias'),
  }
  rng = np.random.default_rng([seed, 1])
  for name in weights:
    arguments[name] = deviation * normal(name)
  return {name: arguments[name] for name in shapes}
