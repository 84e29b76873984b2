"""Parameters at random: cheaper than compiling an initialisation.

None is zero. The zeros of a fresh network would hide what is before them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def random_params(shapes: Any, deviation: float = 0.1, seed: int = 0) -> Any:
  """Returns normal float32 arrays of these shapes; scales are around one."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    mean = 'scale' in jax.tree_util.keystr(path[-1:])
    return jnp.asarray(rng.normal(mean, deviation, leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)
