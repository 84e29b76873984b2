"""Sizes of the attention kernels, and the contents of their free lanes.

Two heads of 64 features share the 128 lanes. A product of queries and keys of
one head contracts all 128, so the other head's lanes are free. They add to the
scores what the vector unit would otherwise have to: the mask of the padding,
and in the backward pass the logarithms of the sums, as two parts of bfloat16.
The same lanes of d_out and the values subtract sum(out d_out). By feature:

    feature          queries, d_out         keys, values
    MASK             1                      0, for padding MASKED
    LOG_SUM, + 1     -log sum               1
    MEAN, + 1        -sum(out d_out)        1
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from pallas_kernels.tpu import rows as rows_lib
from pallas_kernels.tpu import target as targets
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import Packing
from pallas_kernels.tpu.packing import SUBLANES
from pallas_kernels.tpu.products import Products

HEAD_DIM = 64
HEADS = LANES // HEAD_DIM  # that share the lanes
# Features whose lanes of the other head hold the terms above.
MASK = 0
LOG_SUM = 1
MEAN = 4
MASKED = -1e30
# Rows that are normalised at a time.
ROWS = 128
# Scores are logarithms to base 2. Up to this bound neither they nor the sum of
# their powers leaves float32's range, whatever the maximum; beyond it the
# kernel subtracts the running maximum.
LARGEST_SCORE = 100.0
# Rows of a tile in the memory of a chip, where windows may begin.
TILE = 8
# Windows are padded to a multiple of the granule, in tokens; a shorter window
# is one granule.
_GRANULE = 512
# Largest blocks in tokens.
_FORWARD_QUERIES, _FORWARD_KEYS = 2048, 512
_BACKWARD_QUERIES, _BACKWARD_KEYS = 1024, 1024
# Vector memory in which twice as many queries fit in the backward pass.
_LARGE_VMEM = 100 * 2**20
# Share of vector memory that a window may take in the forward pass; the rest is
# for blocks of queries and scores.
_WINDOW_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Tiling:
  """Sizes of one call; all static.

  Attributes:
    batch: B.
    sequence: tokens of the sequence, T.
    windows: windows of the sequence, S.
    stride: tokens from the start of one window to that of the next.
    length: tokens of a window, W.
    tokens: tokens of a window with padding.
    heads: H, an even number.
    has_empty_head: whether the last head is there to make the number even.
    epsilon: number added to the variance of the norms.
    dtype: dtype of the tokens and of the operands of products.
    wide: dtype of scores and sums.
    forward: queries and keys of a block.
    backward: queries and keys of a block.
    vmem: bytes of vector memory.
  """

  batch: int
  sequence: int
  windows: int
  stride: int
  length: int
  tokens: int
  heads: int
  has_empty_head: bool
  epsilon: float
  dtype: jnp.dtype
  wide: jnp.dtype
  forward: tuple[int, int]
  backward: tuple[int, int]
  vmem: int

  @property
  def groups(self) -> int:
    """G, pairs of heads."""
    return self.heads // HEADS

  @property
  def overlap(self) -> int:
    """Tokens that a window shares with the next one."""
    return self.length - self.stride

  @property
  def pairs(self) -> int:
    """Pairs of heads in all windows of all sequences."""
    return self.batch * self.windows * self.groups

  def place(self, pair: Any) -> tuple[Any, Any, Any]:
    """Returns sequence, window and pair of heads of one of `pairs`."""
    clip, rest = divmod(pair, self.windows * self.groups)
    return clip, *divmod(rest, self.groups)

  def numbers_of_heads(self, pair: Any) -> list[tuple[int, Any]]:
    """Returns the possible numbers of heads in a pair, and which one it has.

    Args:
      pair: one of `pairs`.
    """
    is_last = self.place(pair)[2] == self.groups - 1
    if not self.has_empty_head:
      return [(HEADS, True)]
    if self.groups == 1:
      return [(HEADS - 1, True)]
    return [(HEADS, ~is_last), (HEADS - 1, is_last)]

  def in_sequence(
    self, size: int, row: Callable[..., Any], part: int
  ) -> pl.BlockSpec:
    """Returns the rows of a window in [B, T, X], two heads of a part.

    Args:
      size: rows of the block.
      row: function of the grid's indices after the first: the block's number.
      part: 0, 1, 2 for queries, keys and values.
    """
    beyond = (self.windows - 1) * self.stride + self.tokens - self.sequence

    def index(pair, *rest):
      clip, window, group = self.place(pair)
      start = window * self.stride + row(*rest) * size
      lane = (part * self.groups + group) * LANES
      return clip, pl.multiple_of(start, TILE), pl.multiple_of(lane, LANES)

    # Rows after the sequence have undefined values.
    rows = pl.Element(size, padding=(0, max(0, beyond)))
    return pl.BlockSpec((pl.Element(1), rows, pl.Element(LANES)), index)

  def in_windows(self, size: int, row: Callable[..., Any]) -> pl.BlockSpec:
    """Returns the rows of a window in [B S, tokens, H D], two heads."""

    def index(pair, *rest):
      clip, window, group = self.place(pair)
      return clip * self.windows + window, row(*rest), group

    return pl.BlockSpec((None, size, LANES), index)

  @property
  def window_shape(self) -> tuple[int, int, int]:
    """Shape of arrays of windows, [B S, tokens, H D]."""
    return self.batch * self.windows, self.tokens, self.heads * HEAD_DIM

  def before_padding(self, start: Any, x: jax.Array) -> jax.Array:
    """Returns rows x [rows, 128] from `start` on, with zeros as padding."""
    row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0) + start
    return jnp.where(row < self.length, x, jnp.zeros_like(x))

  @property
  def vmem_limit(self) -> int:
    """Vector memory of the kernels; the compiler needs some of its own."""
    return int(self.vmem * 0.97)

  @property
  def products(self) -> Products:
    return Products(self.dtype, self.wide)

  @property
  def units(self) -> rows_lib.Units:
    return rows_lib.Units(Packing(HEAD_DIM, ROWS), self.dtype, self.wide)

  @property
  def query_factor(self) -> float:
    """Factor of the queries that makes scores logarithms to base 2."""
    return HEAD_DIM**-0.5 * math.log2(math.e)

  def loop_shares(self) -> dict[str, list[float]]:
    """Returns the share of the grid's steps that runs each skippable loop.

    Returns:
      'forward', 'backward' -> shares in the order of the code. Of the two loops
      of the forward kernel the one without a maximum runs.
    """
    by_queries = self.forward[0] / self.tokens
    queries, keys = (size / self.tokens for size in self.backward)
    numbers = [1.0]
    if self.has_empty_head and self.groups > 1:
      numbers = [1 - 1 / self.groups, 1 / self.groups]
    return {
      'forward': [by_queries, *(x for n in numbers for x in (n, 0.0))],
      'backward': [keys, queries, queries, keys],
    }

  def two_parts(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns two numbers of `dtype` whose sum is x."""
    high = x.astype(self.dtype)
    return high, (x - high.astype(self.wide)).astype(self.dtype)


def make(
  *,
  batch: int,
  sequence: int,
  windows: int,
  stride: int,
  length: int,
  heads: int,
  epsilon: float,
  dtype: jnp.dtype,
) -> Tiling:
  """Returns the sizes of a call; arguments as the fields of `Tiling`.

  An odd number of heads becomes even.
  """
  tokens = padded(length)
  target = targets.current()
  backward = _BACKWARD_QUERIES * (2 if target.vmem >= _LARGE_VMEM else 1)
  # Wide products are made of several narrow ones, with room for their parts.
  parts = 1 if dtype == jnp.bfloat16 else 2
  return Tiling(
    batch=batch,
    sequence=sequence,
    windows=windows,
    stride=stride,
    length=length,
    tokens=tokens,
    heads=heads + heads % HEADS,
    has_empty_head=heads % HEADS > 0,
    epsilon=epsilon,
    dtype=jnp.dtype(dtype),
    wide=jnp.promote_types(dtype, jnp.float32),
    forward=(
      _block(tokens, _FORWARD_QUERIES // parts),
      _block(tokens, _FORWARD_KEYS),
    ),
    backward=(
      _block(tokens, backward // parts),
      _block(tokens, _BACKWARD_KEYS),
    ),
    vmem=target.vmem,
  )


def padded(length: int) -> int:
  """Returns the tokens of a window with padding."""
  granule = min(_GRANULE, -(-length // LANES) * LANES)
  return -(-length // granule) * granule


def longest_window(dtype: jnp.dtype) -> int:
  """Returns the tokens of a window that fit the current chip's vector memory.

  The forward kernel needs most: two buffers of keys and of values, both again
  in the layout of the products, and the table of positions.
  """
  lanes = 4 * LANES + HEADS * (LANES + HEAD_DIM + SUBLANES)
  wide = jnp.promote_types(dtype, jnp.float32).itemsize
  bytes_ = lanes * jnp.dtype(dtype).itemsize + LANES * wide
  return int(targets.current().vmem * _WINDOW_SHARE) // bytes_


def _block(tokens: int, most: int) -> int:
  """Returns the tokens of a block: a divisor of all, complete tiles."""
  sizes = range(LANES, max(LANES, most) + 1, LANES)
  return max(n for n in sizes if tokens % n == 0)
