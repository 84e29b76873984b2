"""Backward kernel of attention within windows.

The grid visits, for every block of keys, all blocks of queries of the window,
two heads at a time. With do the cotangent of the result o:

    p = 2^(q' K'^T - log sum)           [queries, keys]
    ds = p (do v^T - sum(o do))
    d_v^T += do^T p,   d_k'^T += q'^T ds,   d_q'^T += K'^T ds^T

so p and ds are the stationary side of their products, and 64 rows of a head
pass through the matrix unit instead of all tokens of a block.

The gradient of all queries stays in vector memory until the last block of keys;
norm and rotation are undone there, too.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.window_attention import tpu_forward
from pallas_kernels.window_attention import tpu_rows
from pallas_kernels.window_attention import tpu_tiling
from pallas_kernels.window_attention.tpu_tiling import HEAD_DIM
from pallas_kernels.window_attention.tpu_tiling import HEADS
from pallas_kernels.window_attention.tpu_tiling import LOG_SUM
from pallas_kernels.window_attention.tpu_tiling import MEAN
from pallas_kernels.window_attention.tpu_tiling import ROWS

# Rows of a float32 tile.
_SUBLANES = 8


class _Scratch(NamedTuple):
  """Vector memory: of all queries of a window, then of a block of keys.

  Attributes:
    queries: queries after norm and rotation, times the factor of the scores.
    cotangents: cotangents of the window's result.
    extras: contents of the free lanes of both, see `tpu_tiling`.
    d_queries: gradient of the rotated queries, transposed.
    keys: keys of both heads with their free lanes, [2, keys, 128].
    values: values of both heads with their free lanes, [2, keys, 128].
    keys_transposed: keys after norm and rotation.
    d_keys: gradient of the rotated keys, transposed.
    d_values: gradient of the values, transposed.
  """

  queries: Any
  cotangents: Any
  extras: Any
  d_queries: Any
  keys: Any
  values: Any
  keys_transposed: Any
  d_keys: Any
  d_values: Any


def gradients(
  tiling: tpu_tiling.Tiling,
  qkv: jax.Array,
  norms: jax.Array,
  table: jax.Array,
  out: jax.Array,
  log_sums: jax.Array,
  d_out: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Runs the kernel.

  Args:
    tiling: sizes.
    qkv: [B, T, X].
    norms: [4, 128].
    table: [tokens of a window, 128].
    out: result of the forward kernel [B S, tokens, H D].
    log_sums: logarithms of the forward kernel [B S G, 2, tokens].
    d_out: cotangent of the sequence, the mean of its windows, [B, T, H D].

  Returns:
    Cotangents of q, k and v in windows, [B S, tokens, H D] each, and of the
    norms, [4, 128].
  """
  queries, keys = tiling.backward
  grid = (tiling.pairs, tiling.tokens // keys, tiling.tokens // queries)
  last_keys, last_queries = grid[1] - 1, grid[2] - 1
  # Blocks that a visit does not need stay what they were, and are not copied.
  first = lambda j, i: jnp.where(j == 0, i, last_queries)
  both = lambda j, i: jnp.where((j == 0) | (j == last_keys), i, last_queries)
  last = lambda j, i: jnp.where(j == last_keys, i, 0)

  of_keys = lambda j, i: j
  norm_sums = (tiling.pairs, norms.shape[0], _SUBLANES, LANES)
  *d_parts, d_norms = pl.pallas_call(
    functools.partial(_kernel, tiling),
    grid=grid,
    in_specs=[
      tiling.in_sequence(queries, both, 0),
      tiling.in_sequence(keys, of_keys, 1),
      tiling.in_sequence(keys, of_keys, 2),
      tiling.in_windows(queries, first),
      tiling.in_sequence(queries, first, 0),
      pl.BlockSpec((None, HEADS, queries), lambda b, j, i: (b, 0, first(j, i))),
      pl.BlockSpec((queries, LANES), lambda b, j, i: (both(j, i), 0)),
      pl.BlockSpec((keys, LANES), lambda b, j, i: (j, 0)),
      pl.BlockSpec(norms.shape, lambda b, j, i: (0, 0)),
    ],
    out_specs=[
      tiling.in_windows(queries, last),
      tiling.in_windows(keys, of_keys),
      tiling.in_windows(keys, of_keys),
      pl.BlockSpec((None, *norm_sums[1:]), lambda b, j, i: (b, 0, 0, 0)),
    ],
    out_shape=[
      *[jax.ShapeDtypeStruct(tiling.window_shape, qkv.dtype)] * 3,
      jax.ShapeDtypeStruct(norm_sums, tiling.wide),
    ],
    scratch_shapes=_Scratch(
      queries=pltpu.VMEM((tiling.tokens, LANES), tiling.dtype),
      cotangents=pltpu.VMEM((tiling.tokens, LANES), tiling.dtype),
      extras=pltpu.VMEM((tiling.tokens, LANES), tiling.dtype),
      d_queries=pltpu.VMEM((LANES, tiling.tokens), tiling.wide),
      keys=pltpu.VMEM((HEADS, keys, LANES), tiling.dtype),
      values=pltpu.VMEM((HEADS, keys, LANES), tiling.dtype),
      keys_transposed=pltpu.VMEM((LANES, keys), tiling.dtype),
      d_keys=pltpu.VMEM((LANES, keys), tiling.wide),
      d_values=pltpu.VMEM((LANES, keys), tiling.wide),
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'arbitrary', 'arbitrary'),
      vmem_limit_bytes=tiling.vmem_limit,
    ),
    name='window_attention_backward',
  )(qkv, qkv, qkv, out, d_out, log_sums, table, table, norms)
  return *d_parts, d_norms.sum(axis=(0, 2))


def _kernel(
  tiling,
  q,
  k,
  v,
  out,
  d_out,
  log_sums,
  q_table,
  k_table,
  norms,
  d_q,
  d_k,
  d_v,
  d_norms,
  *scratch,
):
  scratch = _Scratch(*scratch)
  j, i = pl.program_id(1), pl.program_id(2)
  _, window, _ = tiling.place(pl.program_id(0))
  start = pl.multiple_of(i * tiling.backward[0], LANES)
  key_start = pl.multiple_of(j * tiling.backward[1], LANES)
  q, k, v, d_out = (ref.at[0] for ref in (q, k, v, d_out))
  of_queries, of_keys = (tpu_rows.Part(tiling, norms, n) for n in range(2))

  @pl.when((j == 0) & (i == 0))
  def _():
    d_norms[...] = jnp.zeros_like(d_norms)

  @pl.when(j == 0)
  def _():
    _prepare_queries(tiling, start, q, q_table, of_queries, scratch)
    _prepare_cotangents(tiling, window, start, out, d_out, log_sums, scratch)

  @pl.when(i == 0)
  def _():
    _prepare_keys(tiling, key_start, k, v, k_table, of_keys, scratch)

  for heads, is_number in tiling.numbers_of_heads(pl.program_id(0)):

    @pl.when(is_number)
    def _(heads=heads):
      _add_products(tiling, start, heads, scratch)

  @pl.when(i == pl.num_programs(2) - 1)
  def _():
    # Queries have the factor of the scores, and ds is to base e.
    d_rows = lambda at: scratch.d_keys[:, at].T * math.log(2)
    _write(of_keys, key_start, d_rows, k, k_table, d_k, d_norms)

    @pl.loop(0, tiling.backward[1], step=ROWS)
    def _(first):
      at = pl.ds(pl.multiple_of(first, ROWS), ROWS)
      d_v[at, :] = scratch.d_values[:, at].T.astype(d_v.dtype)

  @pl.when(j == pl.num_programs(1) - 1)
  def _():
    def d_rows(at):
      at = pl.ds(pl.multiple_of(start + at.start, ROWS), ROWS)
      return scratch.d_queries[:, at].T * HEAD_DIM**-0.5

    _write(of_queries, start, d_rows, q, q_table, d_q, d_norms)


def _prepare_queries(tiling, start, q, table, part, scratch):
  """Fills the scratch with a block's queries."""
  rows = tiling.backward[0]
  scratch.d_queries[:, pl.ds(start, rows)] = jnp.zeros(
    (LANES, rows), tiling.wide
  )

  @pl.loop(0, rows, step=ROWS)
  def _(first):
    at = pl.ds(pl.multiple_of(first, ROWS), ROWS)
    to = pl.ds(pl.multiple_of(start + first, ROWS), ROWS)
    x = part.placed(to.start, q[at, :], table[at, :])
    scratch.queries[to, :] = (x * tiling.query_factor).astype(tiling.dtype)


def _prepare_cotangents(tiling, window, start, out, d_out, log_sums, scratch):
  """Fills the scratch with a block's cotangents and free lanes.

  Args:
    tiling: sizes.
    window: number of the window.
    start: row of the window with which the block begins.
    out: block of the window's result.
    d_out: block of the cotangent of the mean over windows.
    log_sums: block of the logarithms.
    scratch: the scratch.
  """

  @pl.loop(0, tiling.backward[0], step=ROWS)
  def _(first):
    at = pl.ds(pl.multiple_of(first, ROWS), ROWS)
    to = pl.ds(pl.multiple_of(start + first, ROWS), ROWS)
    d = d_out[at, :]
    row = jax.lax.broadcasted_iota(jnp.int32, d.shape, 0) + to.start
    is_shared = (row < tiling.overlap) & (window > 0)
    is_shared |= (row >= tiling.stride) & (window < tiling.windows - 1)
    d = jnp.where(is_shared, d * jnp.asarray(0.5, d.dtype), d)
    d = tiling.before_padding(to.start, d)
    scratch.cotangents[to, :] = d
    product = out[at, :].astype(tiling.wide) * d.astype(tiling.wide)
    means = tiling.two_parts(-tiling.units.sum_of_others(product))
    feature = tpu_rows.feature(ROWS)
    x = _log_sum_lanes(tiling, log_sums[:, at])
    for number, mean in enumerate(means):
      x = jnp.where(feature == MEAN + number, mean, x)
    scratch.extras[to, :] = x


def _log_sum_lanes(tiling, log_sums):
  """Returns one, and the logarithms [2, rows], in the other heads' lanes."""
  rows = [jnp.ones_like(log_sums).astype(tiling.dtype)]
  rows += tiling.two_parts(-log_sums)
  rows = jnp.concatenate(rows, axis=0)
  shape = (rows.shape[0], LANES)
  # Row 2 n + h belongs into feature n of the lanes that head h leaves free.
  row, lane = (
    jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)
  )
  other = HEADS - 1 - jax.lax.rem(row, jnp.int32(HEADS))
  wanted = other * HEAD_DIM + jax.lax.div(row, jnp.int32(HEADS))
  place = jnp.where(lane == wanted, 1.0, 0.0).astype(tiling.dtype)
  lanes = tiling.products.transposed_times(rows, place)
  return lanes.astype(tiling.dtype)


def _prepare_keys(tiling, start, k, v, table, part, scratch):
  """Fills the scratch with a block's keys and values."""
  for d in (scratch.d_keys, scratch.d_values):
    d[...] = jnp.zeros_like(d)

  @pl.loop(0, tiling.backward[1], step=ROWS)
  def _(first):
    at = pl.ds(pl.multiple_of(first, ROWS), ROWS)
    x = part.placed(start + first, k[at, :], table[at, :]).astype(tiling.dtype)
    feature = tpu_rows.feature(ROWS)
    ones = lambda first: jnp.where(
      (feature == first) | (feature == first + 1), 1.0, 0.0
    ).astype(tiling.dtype)
    mask = tpu_forward.mask_lanes(tiling, start + first)
    scratch.keys_transposed[:, at] = x.T
    y = tiling.before_padding(start + first, v[at, :])
    for h in range(HEADS):
      own = tpu_rows.own_lanes(h, ROWS)
      scratch.keys[h, at, :] = jnp.where(own, x, mask + ones(LOG_SUM))
      scratch.values[h, at, :] = jnp.where(own, y, ones(MEAN))


def _add_products(tiling, start, heads, scratch):
  """Adds the products of a block of queries and a block of keys.

  Args:
    tiling: sizes.
    start: row of the window with which the block of queries begins.
    heads: number of heads.
    scratch: the scratch.
  """
  rows = tiling.backward[0]
  at = pl.ds(start, rows)
  products = tiling.products
  q, d = scratch.queries[at, :], scratch.cotangents[at, :]
  q_transposed, d_transposed = q.T, d.T
  for h in range(heads):
    head = slice(h * HEAD_DIM, (h + 1) * HEAD_DIM)
    own = tpu_rows.own_lanes(h, rows)
    beside = lambda x, own=own: jnp.where(own, x, scratch.extras[at, :])
    p = jnp.exp2(products.times_transposed(beside(q), scratch.keys[h]))
    ds = p * products.times_transposed(beside(d), scratch.values[h])
    p, ds = p.astype(tiling.dtype), ds.astype(tiling.dtype)
    scratch.d_values[head, :] += products.times(d_transposed[head], p)
    scratch.d_keys[head, :] += products.times(q_transposed[head], ds)
    scratch.d_queries[head, at] += products.times_transposed(
      scratch.keys_transposed[head, :], ds
    )


def _write(part, start, d_rows, x, table, d_x, d_norms):
  """Writes the gradient before norm and rotation, and adds those of the norm.

  Args:
    part: queries or keys.
    start: row of the window with which the block begins.
    d_rows: function of rows that returns their gradient after the rotation.
    x: block of queries or keys.
    table: its rows of the table.
    d_x: block of the gradient.
    d_norms: sums of the gradients of both norms.
  """

  @pl.loop(0, d_x.shape[0], step=ROWS)
  def _(first):
    at = pl.ds(pl.multiple_of(first, ROWS), ROWS)
    found = part.gradients(d_rows(at), start + first, x[at, :], table[at, :])
    d_x[at, :] = found.x.astype(d_x.dtype)
    for n, d in zip(part.rows_of_norms, (found.scale, found.bias)):
      d_norms[n] += d.reshape(-1, _SUBLANES, LANES).sum(axis=0)
