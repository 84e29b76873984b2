"""Mini-batches of a sequence, and the states that a backward pass keeps.

A mini-batch is sliced from [B, H, T, ...] and its results are written in place,
so that the sequence is never copied: neither to move N to the front nor to pad
it.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

import jax
import jax.numpy as jnp

from pallas_kernels.xla.cpu_cores import is_single_cpu

# A backward pass that would keep more bytes of states than this keeps only
# the first of each group and recomputes the others: see `choose_mini_batches`.
KEPT_BYTES = 512 * 2**20


@dataclasses.dataclass(frozen=True)
class MiniBatches:
  """A sequence cut into mini-batches, and these into groups, of equal size.

  The last mini-batch, when it is not full, is a full slice that begins before
  its first token, and a mini-batch past the end is the same slice. `owned`
  marks the tokens that belong to a mini-batch; the others must get a step size
  of 0, with which they do not change the state.

  Attributes:
    length: T, at least `size`.
    size: C, tokens of a mini-batch.
    group: mini-batches of a group.
  """

  length: int
  size: int
  group: int

  @property
  def groups(self) -> int:
    """Number of groups that cover the sequence."""
    return -(-self.length // (self.size * self.group))

  @property
  def group_starts(self) -> jax.Array:
    """First mini-batch of each group, [groups]."""
    return self.group * jnp.arange(self.groups)

  @property
  def divides_evenly(self) -> bool:
    """Whether every slice, in every group, owns all its tokens."""
    return self.length % (self.size * self.group) == 0

  def start(self, n: jax.Array) -> jax.Array:
    """Returns the position in the sequence of mini-batch n's slice."""
    return jnp.clip(n * self.size, 0, self.length - self.size)

  def owned(self, n: jax.Array) -> jax.Array:
    """Returns which tokens of its slice belong to mini-batch n, bool [C]."""
    return self.start(n) + jnp.arange(self.size) >= n * self.size

  def take(self, array: jax.Array, n: jax.Array) -> jax.Array:
    """Returns the slice of mini-batch n: [B, H, T, ...] -> [B, H, C, ...]."""
    part = jax.lax.dynamic_slice_in_dim(
      bitcast_to_uint16(array), self.start(n), self.size, 2
    )
    return bitcast_from_uint16(part, array.dtype)

  def take_owned(self, array: jax.Array, n: jax.Array) -> jax.Array:
    """Returns `take` with zeros in place of tokens that n does not own."""
    return self._where_owned(n, self.take(array, n), 0)

  def put(
    self,
    bits: jax.Array,
    n: jax.Array,
    parts: Sequence[jax.Array],
    dtype: jnp.dtype,
  ) -> jax.Array:
    """Returns `bits` [B, H, T, ...] with the tokens of mini-batch n replaced.

    Args:
      bits: `bitcast_to_uint16` of an array of `dtype`.
      n: index of the mini-batch.
      parts: its new tokens in any dtype, [B, heads, C, ...] for consecutive
        heads. (Concatenating them first takes XLA on CPU longer.)
      dtype: dtype of the array.
    """
    head = 0
    for part in parts:
      at = (0, head, self.start(n)) + (0,) * (part.ndim - 3)
      old = jax.lax.dynamic_slice(bits, at, part.shape)
      part = self._where_owned(n, bitcast_to_uint16(part.astype(dtype)), old)
      bits = jax.lax.dynamic_update_slice(bits, part, at)
      head += part.shape[1]
    return bits

  def _where_owned(self, n, part, other):
    """Returns `part` [B, H, C, ...] where owned, else `other`."""
    if self.divides_evenly:
      return part
    owned = self.owned(n).reshape(-1, *(1,) * (part.ndim - 3))
    return jnp.where(owned, part, other)


def bitcast_to_uint16(array: jax.Array) -> jax.Array:
  """Returns a bfloat16 or float16 array as uint16 on one CPU, else as it is.

  XLA on CPU widens a 16-bit float array completely to write a slice of it, in
  every step of a loop.
  """
  if array.dtype.itemsize != 2 or not is_single_cpu():
    return array
  return jax.lax.bitcast_convert_type(array, jnp.uint16)


def bitcast_from_uint16(bits: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Returns the array of `dtype` from the result of `bitcast_to_uint16`."""
  if bits.dtype == dtype:
    return bits
  return jax.lax.bitcast_convert_type(bits, dtype)


def choose_mini_batches(
  length: int, mini_batch: int, state_bytes: int
) -> MiniBatches:
  """Returns mini-batches and groups that fit the budget for kept states.

  A state is larger than the tokens of its mini-batch (at C = 64, K = 256 eight
  times q), so that N states would dominate the memory of a backward pass. It
  keeps the first state of each group, and recomputes one group at a time: in
  groups of about sqrt(N) it holds about 2 sqrt(N) states, for one more pass
  that only learns. Where all N fit `KEPT_BYTES` there is one group, and nothing
  is recomputed.

  Args:
    length: T.
    mini_batch: C; shorter sequences are one mini-batch.
    state_bytes: size of one state, of all rows.
  """
  size = min(mini_batch, length)
  n = -(-length // size)
  keep_all = n * state_bytes <= KEPT_BYTES
  return MiniBatches(length, size, n if keep_all else group_size(n))


def group_size(n: int) -> int:
  """Returns a group size near sqrt(n) that leaves the last group fullest."""
  root = math.isqrt(n)
  return min(range(root, 2 * root + 1), key=lambda size: (-n % size, size))
