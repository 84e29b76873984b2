"""A permutation of rows on TPUs, by products with permutation matrices.

A TPU stores rows in tiles of 8 or 16 and copies complete tiles. A run that does
not begin at a tile must be shifted by some rows, and a reversed run must be
flipped; the vector unit does both slowly. Here a span of rows, aligned to
tiles, is multiplied by a matrix of zeros and ones, which does both at once. The
product is exact: each result is one number times one. But a number that is not
finite makes all rows of its span NaN.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np

from pallas_kernels.permute_rows.permutation import Permutation
from pallas_kernels.tpu import target
from pallas_kernels.tpu.products import Products

# Rows of a tile of the narrowest dtype.
_TILE = 16
# Rows of the source that enter a product: the side of the matrix unit.
_SPAN = 128
# Rows of the result of a product: wherever they begin in the source, a span
# aligned to tiles contains them.
_PART = _SPAN - _TILE
# Bytes of a block of the result: with much smaller blocks, the overhead of a
# grid step dominates.
_BLOCK_BYTES = 2 * 2**20
# Most products in the code of a kernel: parts of a block times the runs in it.
# Each run of a block also takes a window of memory.
_MOST_PRODUCTS = 24


@dataclasses.dataclass(frozen=True)
class _Piece:
  """The part of a run that falls into a block of the result.

  Attributes:
    low: first row of the piece, counted in the block.
    high: row after its last row.
    first: position of its first row in the window of the source.
    step: 1 or -1.
  """

  low: Any
  high: Any
  first: Any
  step: Any

  def source_row(self, row: Any) -> Any:
    """Returns the row of the window that belongs into `row` of the block."""
    return self.first + self.step * (row - self.low)


@dataclasses.dataclass(frozen=True)
class _Table:
  """The pieces of the source that make up each block of the result.

  Attributes:
    rows: rows of a block, a multiple of `_PART`.
    windows: [pieces, blocks] int32, the tile of the source at which the window
      of a piece begins. Where a block has fewer pieces than others it repeats
      the window of the previous block, which is not read again.
    pieces: [4, pieces, blocks] int32, the fields of `_Piece`; zeros where a
      block has fewer pieces.
  """

  rows: int
  windows: np.ndarray
  pieces: np.ndarray

  @property
  def window(self) -> int:
    """Rows of the source that a piece reads."""
    return self.rows + _TILE

  @property
  def products(self) -> int:
    """Products in the code of a kernel."""
    return self.rows // _PART * self.windows.shape[0]


def permute_rows(x: jax.Array, permutation: Permutation) -> jax.Array:
  """Implements `api.permute_rows`.

  Raises:
    NotImplementedError: the matrix unit does not support the dtype, or there
      are too many short runs.
  """
  batch, length, width = x.shape
  if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype == jnp.float16:
    raise NotImplementedError(
      f'rows of {x.dtype}: the TPU kernel supports bfloat16 and float32'
    )
  table = _choose_table(permutation, width * x.dtype.itemsize)
  # The result of the last block, and every window, may extend past the end.
  padded = max(-(-length // _TILE) * _TILE, table.window)
  if padded > length:
    x = jnp.pad(x, ((0, 0), (0, padded - length), (0, 0)))
  count, blocks = table.windows.shape
  sources = [
    pl.BlockSpec(
      (pl.Element(1), pl.Element(table.window), pl.Element(width)),
      functools.partial(_window, number),
    )
    for number in range(count)
  ]
  return pl.pallas_call(
    functools.partial(_kernel, table.rows),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(batch, blocks),
      in_specs=sources,
      out_specs=pl.BlockSpec(
        (None, table.rows, width), lambda b, i, *_: (b, i, 0)
      ),
    ),
    out_shape=jax.ShapeDtypeStruct((batch, length, width), x.dtype),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel'),
      vmem_limit_bytes=target.current().vmem,
    ),
    name='permute_rows',
  )(jnp.asarray(table.windows), jnp.asarray(table.pieces), *[x] * count)


@functools.lru_cache(maxsize=16)
def _choose_table(permutation: Permutation, row_bytes: int) -> _Table:
  """Returns the table with the largest blocks within the limits.

  Raises:
    NotImplementedError: even the smallest blocks contain too many runs.
  """
  parts = max(1, _BLOCK_BYTES // (_PART * row_bytes))
  parts = min(parts, -(-permutation.length // _PART))
  while True:
    table = _table(permutation, parts * _PART)
    if table.products <= _MOST_PRODUCTS:
      return table
    if parts == 1:
      raise NotImplementedError(
        f'{len(table.windows)} runs of rows meet in {_PART} rows: the TPU'
        f' kernel joins at most {_MOST_PRODUCTS}; use'
        " implementation='xla'"
      )
    parts //= 2


def _table(permutation: Permutation, rows: int) -> _Table:
  """Cuts the runs at the ends of blocks of `rows` rows."""
  blocks = -(-permutation.length // rows)
  found = [[] for _ in range(blocks)]
  # The last window ends with the source, where that is long enough.
  last = max(0, -(-permutation.length // _TILE) - rows // _TILE - 1)
  row = 0
  for run in permutation.runs:
    done = 0
    while done < run.length:
      block, low = divmod(row, rows)
      count = min(run.length - done, rows - low)
      start = run.start + run.step * done
      lowest = min(start, start + run.step * (count - 1))
      tile = min(lowest // _TILE, last)
      piece = (low, low + count, start - tile * _TILE, run.step)
      found[block].append((tile, piece))
      done += count
      row += count
  count = max(map(len, found))
  windows = np.zeros((count, blocks), np.int32)
  pieces = np.zeros((4, count, blocks), np.int32)
  for block, entries in enumerate(found):
    windows[:, block] = windows[:, max(block - 1, 0)]
    for number, (tile, piece) in enumerate(entries):
      windows[number, block] = tile
      pieces[:, number, block] = piece
  return _Table(rows, windows, pieces)


def _window(number, b, i, windows, _):
  """Returns the position of a piece's window in the source."""
  return b, pl.multiple_of(windows[number, i] * _TILE, _TILE), 0


def _kernel(rows, _, pieces, *refs):
  """Fills a block of `rows` rows."""
  *sources, out = refs
  block = pl.program_id(1)
  pieces = [
    _Piece(*(pieces[field, number, block] for field in range(4)))
    for number in range(len(sources))
  ]
  for top in range(0, rows, _PART):
    part = slice(top, top + _PART)
    # The first piece initialises the part, possibly with zeros; the others add
    # to it.
    out[part, :] = _permuted_part(pieces[0], sources[0], top)
    for piece, source in zip(pieces[1:], sources[1:]):

      @pl.when((piece.low < top + _PART) & (piece.high > top))
      def _(piece=piece, source=source, part=part, top=top):
        out[part, :] += _permuted_part(piece, source, top)


def _permuted_part(piece: _Piece, source: Any, top: int) -> jax.Array:
  """Returns the part of the block at row `top`: rows of the piece or zeros."""
  low = jnp.maximum(piece.low, top)
  high = jnp.minimum(piece.high, top + _PART)
  lowest = jnp.minimum(piece.source_row(low), piece.source_row(high - 1))
  # If the part contains no row of the piece, the span is arbitrary.
  last_tile = (source.shape[1] - _SPAN) // _TILE
  tile = jnp.clip(jax.lax.div(lowest, np.int32(_TILE)), 0, last_tile)
  span = pl.multiple_of(tile * _TILE, _TILE)
  shape = _PART, _SPAN
  row = jax.lax.broadcasted_iota(jnp.int32, shape, 0) + top
  source_row = jax.lax.broadcasted_iota(jnp.int32, shape, 1) + span
  chosen = (row >= low) & (row < high) & (source_row == piece.source_row(row))
  x = source[0, pl.ds(span, _SPAN), :]
  products = Products(x.dtype, jnp.promote_types(x.dtype, jnp.float32))
  return products.times(chosen, x).astype(x.dtype)
