"""Parameters from files straight onto devices, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

# As of `checkpoint.load_params`: where an array of this shape and type goes.
Sharding = Callable[[jax.ShapeDtypeStruct], Any]


def UNREAD(like: jax.ShapeDtypeStruct) -> Any:  # pylint: disable=invalid-name
  """Where a `Sharding` is asked for: leave the parameters in their files."""
  raise TypeError(f'a parameter {like.shape} that is to stay in its file')


class Reader(Protocol):
  """Makes a parameter of a tensor, as `rules.Rule` does."""

  def read(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`tensor` in the layout of a parameter of this shape."""


@dataclasses.dataclass(frozen=True)
class Parameter:
  """A parameter that is known but not read yet; `np.asarray` reads it.

  Attributes:
    shape: of the parameter.
    dtype: of the tensors that it is made of.
    parts: (rule, tensor) of each layer, or the only one.
    is_stacked: the leading axis counts layers.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  parts: tuple[tuple[Reader, Any], ...]
  is_stacked: bool

  def read(self, i: int, dtype: np.dtype | None = None) -> np.ndarray:
    """Layer `i`, or the whole where there are no layers (i = 0)."""
    rule, tensor = self.parts[i]
    shape = self.shape[1:] if self.is_stacked else self.shape
    return rule.read(np.asarray(tensor, dtype), shape)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    """All layers, in `dtype` or their own; always a copy."""
    if not self.is_stacked:
      return self.read(0, dtype)
    out = np.empty(self.shape, dtype or self.dtype)
    for i in range(len(self.parts)):
      out[i] = self.read(i, dtype)
    return out


def place(
  parameter: Parameter, dtype: Any, sharding: Sharding | None
) -> np.ndarray | jax.Array:
  """The parameter on the host, or where `sharding` wants it.

  Layers are written into their places one after the other: the host never
  holds more than one of them, and each is read once.

  Args:
    parameter: not read yet.
    dtype: of the result; None keeps its own.
    sharding: gives the place; None is a numpy array.
  """
  dtype = np.dtype(parameter.dtype if dtype is None else dtype)
  if sharding is None:
    return np.asarray(parameter, dtype)
  where = sharding(jax.ShapeDtypeStruct(parameter.shape, dtype))
  if not parameter.is_stacked:
    return _put(parameter.read(0, dtype), where)
  whole = jnp.zeros(parameter.shape, dtype, device=where)
  write = _writer(where)
  for i in range(len(parameter.parts)):
    layer = _put(parameter.read(i, dtype), _of_layer(where))
    # Else layers would pile up on the host, waiting for their turn.
    whole = write(whole, layer, i).block_until_ready()
  return whole


def _put(value: np.ndarray, where: Any) -> jax.Array:
  # Each device takes its part; on several hosts no host asks another.
  return jax.make_array_from_callback(
    value.shape, where, lambda index: value[index]
  )


def _of_layer(where: Any) -> Any:
  """The sharding of one layer of a stack."""
  if not isinstance(where, jax.sharding.NamedSharding):
    return where
  return jax.sharding.NamedSharding(
    where.mesh, jax.sharding.PartitionSpec(*where.spec[1:])
  )


@functools.lru_cache
def _writer(where: Any) -> Callable[..., jax.Array]:
  """(whole, layer, i) -> whole with that layer, in place."""
  return jax.jit(
    lambda whole, layer, i: whole.at[i].set(layer),
    donate_argnums=0,
    out_shardings=where,
  )
