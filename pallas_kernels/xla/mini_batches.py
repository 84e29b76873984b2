"""Cuts a sequence into mini-batches, and says which states a backward keeps.

A mini-batch is sliced where it lies in [B, H, T, ...] and its results are
written where they belong, so the sequence is never copied: not to bring N to
the front, and not to pad it.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

import jax
import jax.numpy as jnp

from pallas_kernels.xla.rows import on_one_cpu

# A backward pass that would keep more bytes of states than this keeps only
# the first of each group and recomputes the others: see `cut_sequence`.
KEPT_BYTES = 512 * 2**20


@dataclasses.dataclass(frozen=True)
class Cut:
  """A sequence cut into mini-batches, and these into groups, of equal size.

  The last mini-batch, when it is not full, is a full slice that begins before
  its first token, and a mini-batch past the end is the same slice. `fresh`
  tells the tokens that are a mini-batch's own; its step must see the others
  with a step size of 0, which keeps them from moving the state.

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
    """Returns the number of groups that hold the sequence."""
    return -(-self.length // (self.size * self.group))

  @property
  def firsts(self) -> jax.Array:
    """Returns the first mini-batch of each group, [groups]."""
    return self.group * jnp.arange(self.groups)

  @property
  def even(self) -> bool:
    """Returns whether all tokens are their slice's own, in every group."""
    return self.length % (self.size * self.group) == 0

  def start(self, n: jax.Array) -> jax.Array:
    """Returns where the slice of mini-batch n begins, within the sequence."""
    return jnp.clip(n * self.size, 0, self.length - self.size)

  def fresh(self, n: jax.Array) -> jax.Array:
    """Returns which tokens of its slice are mini-batch n's own, bool [C]."""
    return self.start(n) + jnp.arange(self.size) >= n * self.size

  def take(self, array: jax.Array, n: jax.Array) -> jax.Array:
    """Returns the slice of mini-batch n: [B, H, T, ...] -> [B, H, C, ...]."""
    part = jax.lax.dynamic_slice_in_dim(
      to_bits(array), self.start(n), self.size, 2
    )
    return from_bits(part, array.dtype)

  def take_fresh(self, array: jax.Array, n: jax.Array) -> jax.Array:
    """Returns `take` with zeros in place of tokens that are not n's own."""
    return self._where_fresh(n, self.take(array, n), 0)

  def put(
    self,
    bits: jax.Array,
    n: jax.Array,
    parts: Sequence[jax.Array],
    dtype: jnp.dtype,
  ) -> jax.Array:
    """Returns `bits` [B, H, T, ...] with mini-batch n's own tokens replaced.

    Args:
      bits: `to_bits` of an array of `dtype`.
      n: index of the mini-batch.
      parts: its new tokens in any dtype, [B, heads, C, ...] for some heads
        after the other. (To concatenate them first takes XLA on CPU longer.)
      dtype: of the array.
    """
    head = 0
    for part in parts:
      at = (0, head, self.start(n)) + (0,) * (part.ndim - 3)
      old = jax.lax.dynamic_slice(bits, at, part.shape)
      part = self._where_fresh(n, to_bits(part.astype(dtype)), old)
      bits = jax.lax.dynamic_update_slice(bits, part, at)
      head += part.shape[1]
    return bits

  def _where_fresh(self, n, part, other):
    """Returns `part` [B, H, C, ...] where fresh, else `other`."""
    if self.even:
      return part
    fresh = self.fresh(n).reshape(-1, *(1,) * (part.ndim - 3))
    return jnp.where(fresh, part, other)


def to_bits(array: jax.Array) -> jax.Array:
  """Returns a bfloat16 or float16 array as uint16, on one CPU.

  XLA on CPU widens all of a 16-bit float array to write a slice of it, in
  every step of a loop.
  """
  if array.dtype.itemsize != 2 or not on_one_cpu():
    return array
  return jax.lax.bitcast_convert_type(array, jnp.uint16)


def from_bits(bits: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Returns the array of `dtype` that `to_bits` took."""
  if bits.dtype == dtype:
    return bits
  return jax.lax.bitcast_convert_type(bits, dtype)


def cut_sequence(length: int, mini_batch: int, state_bytes: int) -> Cut:
  """Returns the cut of a sequence that fits the budget for kept states.

  A state is larger than the tokens that it meets (at C = 64, K = 256 eight
  times q), so that N of them would set the peak memory of a backward pass.
  It keeps the first state of each group, and recomputes a group at a time:
  in groups of about sqrt(N) that is about 2 sqrt(N) states in all, for one
  more pass that only learns. Where all N fit `KEPT_BYTES` there is one group,
  and nothing is recomputed.

  Args:
    length: T.
    mini_batch: C; shorter sequences are one mini-batch.
    state_bytes: size of one state, of all rows.
  """
  size = min(mini_batch, length)
  n = -(-length // size)
  keep_all = n * state_bytes <= KEPT_BYTES
  return Cut(length, size, n if keep_all else group_size(n))


def group_size(n: int) -> int:
  """Returns a group size near sqrt(n) that leaves the fewest empty places."""
  root = math.isqrt(n)
  return min(range(root, 2 * root + 1), key=lambda size: (-n % size, size))
