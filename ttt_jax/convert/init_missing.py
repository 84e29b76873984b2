"""Initial values for parameters that a folder does not contain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from ttt_jax.checkpoints import train_state
from ttt_jax.convert import lazy_params

DTYPE = np.dtype(np.float32)
# Parameters that are initialised by one call when they are read one by one.
_GROUP_BYTES = 256 * 2**20

# (config, key) -> all parameters of a new model, nested.
InitFn = Callable[[Any, jax.Array], Any]


def init_missing_params(
  init_params: InitFn,
  config: Any,
  shapes: Mapping[str, tuple[int, ...]],
  seed: int,
  dtype: Any = None,
  sharding: lazy_params.Placement = None,
) -> dict[str, Any]:
  """Returns path -> value: the parameters of a new model that `shapes` lists.

  Args:
    init_params: Function that initialises all parameters.
    config: Config of the model.
    shapes: '/'-joined path -> shape of the parameters.
    seed: Seed of the initial values.
    dtype: Type of the values; None is float32.
    sharding: Sharding of each value; None returns numpy arrays,
      `lazy_params.ABSTRACT` returns a `LazyInit` for each, in float32.
  """
  if sharding is lazy_params.ABSTRACT:
    sizes = {p: math.prod(s) * DTYPE.itemsize for p, s in shapes.items()}
    return {
      path: LazyInit(
        shapes[path],
        path,
        (init_params, config, tuple((p, shapes[p]) for p in group), seed),
      )
      for group in lazy_params.group_by_size(sizes, _GROUP_BYTES)
      for path in group
    }
  dtype = np.dtype(DTYPE if dtype is None else dtype)

  def init(key):
    # The compiler drops what is not returned.
    flat = train_state.flatten(init_params(config, key))
    return {path: flat[path].astype(dtype) for path in shapes}

  out_shardings = sharding and {
    path: sharding(jax.ShapeDtypeStruct(shape, dtype))
    for path, shape in shapes.items()
  }
  flat = jax.jit(init, out_shardings=out_shardings)(jax.random.key(seed))
  return flat if sharding else jax.device_get(flat)


@dataclasses.dataclass(frozen=True)
class LazyInit:
  """An initial value that is not computed yet; `np.asarray` computes it.

  Attributes:
    shape: Shape of the parameter.
    path: '/'-joined path of the parameter.
    group: Arguments of `_init_group`, for all parameters of a group.
  """

  shape: tuple[int, ...]
  path: str
  group: tuple[Any, ...]

  @property
  def dtype(self) -> np.dtype:
    return DTYPE

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    value = _init_group(*self.group)[self.path]
    return value if dtype is None else value.astype(dtype, copy=False)


@functools.lru_cache(maxsize=1)
def _init_group(init_params, config, shapes, seed):
  return init_missing_params(init_params, config, dict(shapes), seed)
