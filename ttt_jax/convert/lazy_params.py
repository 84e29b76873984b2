"""Parameters that stay in their files until a device needs them.

`materialize` moves one tensor at a time, so that the host never holds a
complete model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import enum
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

# (shape and dtype of an array) -> its sharding.
ShardingFn = Callable[[jax.ShapeDtypeStruct], Any]


class Abstract(enum.Enum):
  """The type of `ABSTRACT`."""

  ABSTRACT = 'abstract'


# In place of a `ShardingFn`: parameters are checked, but not read.
ABSTRACT = Abstract.ABSTRACT

# Where parameters go: None stands for numpy arrays.
Placement = ShardingFn | Abstract | None


class Reader(Protocol):
  """Converts a tensor to a parameter, as `rules.Rule` does."""

  def read(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns `tensor` in the layout of a parameter of this shape."""


@dataclasses.dataclass(frozen=True)
class Parameter:
  """A parameter that has not been read yet; `np.asarray` reads it.

  Attributes:
    shape: Shape of the parameter.
    dtype: Type of the tensors that it consists of.
    parts: (rule, tensor) per layer, or the only pair.
    is_stacked: Whether the leading axis counts layers.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  parts: tuple[tuple[Reader, Any], ...]
  is_stacked: bool

  def read(self, i: int, dtype: np.dtype | None = None) -> np.ndarray:
    """Returns layer `i`, or the parameter if it is not stacked (i = 0)."""
    rule, tensor = self.parts[i]
    shape = self.shape[1:] if self.is_stacked else self.shape
    return rule.read(np.asarray(tensor, dtype), shape)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    """Returns all layers as a copy, in `dtype` or their own type."""
    if not self.is_stacked:
      return self.read(0, dtype)
    out = np.empty(self.shape, dtype or self.dtype)
    for i in range(len(self.parts)):
      out[i] = self.read(i, dtype)
    return out


def materialize(
  parameter: Parameter, dtype: Any, sharding: ShardingFn | None
) -> np.ndarray | jax.Array:
  """Reads a parameter, onto devices if a sharding is given.

  The layers of a stack are read one after the other, each once, and written
  in place on the devices: the host holds one layer at a time.

  Args:
    parameter: Parameter to read.
    dtype: Type of the result; None keeps the parameter's.
    sharding: Sharding of the result; None returns a numpy array.
  """
  dtype = np.dtype(parameter.dtype if dtype is None else dtype)
  if sharding is None:
    return np.asarray(parameter, dtype)
  target = sharding(jax.ShapeDtypeStruct(parameter.shape, dtype))
  if not parameter.is_stacked:
    return _put(parameter.read(0, dtype), target)
  stack = jnp.zeros(parameter.shape, dtype, device=target)
  write = _layer_writer(target)
  for i in range(len(parameter.parts)):
    layer = _put(parameter.read(i, dtype), _layer_sharding(target))
    # Without blocking, layers would pile up on the host.
    stack = write(stack, layer, i).block_until_ready()
  return stack


def group_by_size(sizes: Mapping[str, int], limit: float) -> list[list[str]]:
  """Returns names in order, in groups of at most `limit` bytes where possible.

  Args:
    sizes: Bytes by name.
    limit: Largest sum of a group that has more than one name.
  """
  groups, total = [[]], 0
  for name, size in sizes.items():
    if groups[-1] and total + size > limit:
      groups.append([])
      total = 0
    groups[-1].append(name)
    total += size
  return groups


def _put(value: np.ndarray, sharding: Any) -> jax.Array:
  # Each device takes its part, without communication between hosts.
  return jax.make_array_from_callback(
    value.shape, sharding, lambda index: value[index]
  )


def _layer_sharding(sharding: Any) -> Any:
  """Returns the sharding of one layer of a stack."""
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding
  return jax.sharding.NamedSharding(
    sharding.mesh, jax.sharding.PartitionSpec(*sharding.spec[1:])
  )


@functools.lru_cache
def _layer_writer(sharding: Any) -> Callable[..., jax.Array]:
  """Returns (stack, layer, i) -> stack with that layer, updated in place."""
  return jax.jit(
    lambda stack, layer, i: stack.at[i].set(layer),
    donate_argnums=0,
    out_shardings=sharding,
  )
