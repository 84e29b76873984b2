"""The sequence of overlapping windows: each token is the sum of its windows."""

from __future__ import annotations

from collections.abc import Sequence
import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np

from pallas_kernels.window_attention import tpu_tiling
from pallas_kernels.window_attention.tpu_tiling import TILE

# Bytes of a block of the result: with much smaller blocks, the overhead of a
# grid step dominates.
_BLOCK_BYTES = 6 * 2**20
# Fewest rows of a block; with fewer, XLA is as fast.
_FEWEST_ROWS = 128
# Rows that are added at a time: as many as the registers hold.
_ROWS = 8


def sum_windows(
  tiling: tpu_tiling.Tiling,
  parts: Sequence[jax.Array],
  width: int,
  factor: float,
) -> jax.Array:
  """Returns the sequence of windows.

  Args:
    tiling: sizes.
    parts: arrays of windows [B S, tokens, Y], features next to each other.
    width: features of the result, X; those after the parts are zero.
    factor: factor of the tokens of two windows, 0.5 for their mean.

  Returns:
    [B, T, X]; tokens after the last window are zero.
  """
  rows = block_rows(tiling.stride, width * parts[0].dtype.itemsize)
  if rows < _FEWEST_ROWS:
    return _sum_by_xla(tiling, parts, width, factor)
  blocks = tiling.stride // rows  # of a window, before the next one
  # The last block of the overlap, and at most that of a window.
  last = min(blocks - 1 - -tiling.overlap // rows, (tiling.tokens - 1) // rows)

  def own(clip, block):
    """The block of the window that begins last before it."""
    window = jnp.minimum(block // blocks, tiling.windows - 1)
    return clip * tiling.windows + window, block % blocks, 0

  def previous(clip, block):
    """The block of the window before, one that overlaps."""
    window = jnp.clip(block // blocks - 1, 0, tiling.windows - 1)
    row = jnp.minimum(blocks + block % blocks, last)
    return clip * tiling.windows + window, row, 0

  spec = lambda index, x: pl.BlockSpec((None, rows, x.shape[2]), index)
  return pl.pallas_call(
    functools.partial(_kernel, tiling, rows, factor),
    grid=(tiling.batch, pl.cdiv(tiling.sequence, rows)),
    in_specs=[
      *(spec(own, x) for x in parts),
      *(spec(previous, x) for x in parts),
    ],
    out_specs=pl.BlockSpec((None, rows, width), lambda b, i: (b, i, 0)),
    out_shape=jax.ShapeDtypeStruct(
      (tiling.batch, tiling.sequence, width), parts[0].dtype
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel'),
      vmem_limit_bytes=tiling.vmem_limit,
    ),
    name='sum_windows',
  )(*parts, *parts)


def block_rows(stride: int, row_bytes: int) -> int:
  """Returns the rows of a block: tiles that divide the stride; 0 if none do."""
  most = max(TILE, _BLOCK_BYTES // row_bytes)
  fits = (n for n in range(TILE, most + 1, TILE) if stride % n == 0)
  return max(fits, default=0)


def _kernel(tiling, rows, factor, *refs):
  *sources, out = refs
  count = len(sources) // 2
  block = pl.program_id(1)
  blocks = tiling.stride // rows
  window = block // blocks
  first = block % blocks * rows
  has_own = window < tiling.windows
  has_previous = (window > 0) & (window <= tiling.windows)

  @pl.loop(0, rows, step=_ROWS)
  def _(start):
    at = pl.ds(pl.multiple_of(start, _ROWS), _ROWS)
    lane = 0
    for own, previous in zip(sources[:count], sources[count:]):
      shape = (_ROWS, own.shape[1])
      row = jax.lax.broadcasted_iota(jnp.int32, shape, 0) + first + start
      is_shared = has_previous & (row < tiling.overlap)
      zero = jnp.zeros(shape, out.dtype)
      a = jnp.where(has_own, own[at, :], zero)
      b = jnp.where(is_shared, previous[at, :], zero)
      both = ((a + b) * jnp.asarray(factor, out.dtype)).astype(out.dtype)
      x = jnp.where(has_own & is_shared, both, a + b)
      out[at, lane : lane + shape[1]] = x
      lane += shape[1]
    if lane < out.shape[1]:
      out[at, lane:] = jnp.zeros((_ROWS, out.shape[1] - lane), out.dtype)


def _sum_by_xla(tiling, parts, width, factor):
  """Implements `sum_windows`."""
  x = jnp.concatenate(parts, axis=2)
  x = x.reshape(tiling.batch, tiling.windows, *x.shape[1:])
  starts, ends = jnp.split(x[:, :, : tiling.length], [tiling.stride], axis=2)
  # The end of a window is the beginning of the next one.
  before = jnp.pad(
    ends[:, :-1],
    ((0, 0), (1, 0), (0, tiling.stride - tiling.overlap), (0, 0)),
  )
  window, token = np.ogrid[: tiling.windows, : tiling.stride]
  is_shared = (window > 0) & (token < tiling.overlap)
  starts = jnp.where(is_shared[..., None], (before + starts) * factor, starts)
  starts = starts.reshape(tiling.batch, -1, x.shape[-1])
  out = jnp.concatenate([starts, ends[:, -1]], axis=1)
  padding = tiling.sequence - out.shape[1], width - out.shape[2]
  return jnp.pad(out, ((0, 0), (0, padding[0]), (0, padding[1])))
