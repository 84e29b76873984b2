"""Parameters that no file has, drawn as a new model draws them."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from ttt_jax.convert import lazy_params
from ttt_jax.models import dit

DTYPE = np.dtype(np.float32)
# Bytes that are drawn together where one after the other is asked for.
_GROUP_BYTES = 256 * 2**20


def draw(
  config: dit.DiTConfig,
  shapes: Mapping[str, tuple[int, ...]],
  seed: int,
  dtype: Any = None,
  sharding: lazy_params.Sharding | None = None,
) -> dict[str, Any]:
  """Path -> initial value of some parameters, those of `dit.init_params`.

  Args:
    config: of the model.
    shapes: path -> shape of the parameters.
    seed: of the draw.
    dtype: of the values; None is float32.
    sharding: where each goes; None gives numpy arrays.
  """
  dtype = np.dtype(DTYPE if dtype is None else dtype)

  def init(key):
    # What is not asked for is not computed.
    flat = traverse_util.flatten_dict(dit.init_params(config, key), sep='/')
    return {path: flat[path].astype(dtype) for path in shapes}

  like = {
    path: jax.ShapeDtypeStruct(shape, dtype) for path, shape in shapes.items()
  }
  where = sharding and {path: sharding(leaf) for path, leaf in like.items()}
  flat = jax.jit(init, out_shardings=where)(jax.random.key(seed))
  return flat if sharding else jax.device_get(flat)


@dataclasses.dataclass(frozen=True)
class Fresh:
  """An initial value that is not drawn yet; `np.asarray` draws it.

  Attributes:
    config: of the model.
    group: (path, shape) of the parameters that are drawn together.
    path: of this one.
    shape: of this one.
    seed: of the draw.
  """

  config: dit.DiTConfig
  group: tuple[tuple[str, tuple[int, ...]], ...]
  path: str
  shape: tuple[int, ...]
  seed: int

  @property
  def dtype(self) -> np.dtype:
    return DTYPE

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    value = _draw(self.config, self.group, self.seed)[self.path]
    return value if dtype is None else value.astype(dtype, copy=False)


def later(
  config: dit.DiTConfig, shapes: Mapping[str, tuple[int, ...]], seed: int
) -> dict[str, Fresh]:
  """As `draw`, but each is drawn when it is asked for."""
  groups, size = [{}], 0
  for path, shape in shapes.items():
    size += math.prod(shape) * DTYPE.itemsize
    if groups[-1] and size > _GROUP_BYTES:
      groups.append({})
      size = math.prod(shape) * DTYPE.itemsize
    groups[-1][path] = shape
  return {
    path: Fresh(config, tuple(group.items()), path, shape, seed)
    for group in groups
    for path, shape in group.items()
  }


@functools.lru_cache(maxsize=1)
def _draw(config, group, seed):
  return draw(config, dict(group), seed)
