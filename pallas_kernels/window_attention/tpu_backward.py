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

# Rows of a float32 tile.
_SUBLANES = 8
# Rows at a time outside the products.
_ROWS = 128


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
      tiling.in_sequence(queries, lambda j, i: i, 0),
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
    scratch_shapes=[
      pltpu.VMEM((tiling.tokens, LANES), tiling.dtype),
      pltpu.VMEM((tiling.tokens, LANES), tiling.dtype),
      pltpu.VMEM((LANES, tiling.tokens), tiling.wide),
      pltpu.VMEM((HEADS, keys, LANES), tiling.dtype),
      pltpu.VMEM((HEADS, keys, LANES), tiling.dtype),
      pltpu.VMEM((LANES, keys), tiling.dtype),
      pltpu.VMEM((LANES, keys), tiling.wide),
      pltpu.VMEM((LANES, keys), tiling.wide),
    ],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'arbitrary', 'arbitrary'),
      vmem_limit_bytes=int(tiling.vmem * 0.97),
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
  queries,
  extras,
  d_queries,
  keys,
  values,
  keys_transposed,
  d_keys,
  d_values,
):
  j, i = pl.program_id(1), pl.program_id(2)
  _, window, _ = tiling.place(pl.program_id(0))
  start = pl.multiple_of(i * tiling.backward[0], LANES)
  key_start = pl.multiple_of(j * tiling.backward[1], LANES)
  q, k, v, d_out = (ref.at[0] for ref in (q, k, v, d_out))
  cotangent = functools.partial(_cotangent, tiling, window, start, d_out)

  @pl.when((j == 0) & (i == 0))
  def _():
    d_norms[...] = jnp.zeros_like(d_norms)

  @pl.when(j == 0)
  def _():
    _prepare_queries(
      tiling,
      start,
      q,
      out,
      cotangent,
      log_sums,
      q_table,
      norms,
      queries,
      extras,
    )
    d_queries[:, pl.ds(start, tiling.backward[0])] = jnp.zeros(
      (LANES, tiling.backward[0]), tiling.wide
    )

  @pl.when(i == 0)
  def _():
    _prepare_keys(
      tiling, key_start, k, v, k_table, norms, keys, values, keys_transposed
    )
    d_keys[...] = jnp.zeros_like(d_keys)
    d_values[...] = jnp.zeros_like(d_values)

  _add_products(
    tiling,
    start,
    cotangent(pl.ds(0, tiling.backward[0])),
    queries,
    extras,
    keys,
    values,
    keys_transposed,
    d_queries,
    d_keys,
    d_values,
  )

  @pl.when(i == pl.num_programs(2) - 1)
  def _():
    # Queries have the factor of the scores, and ds is to base e.
    d_rows = lambda at: d_keys[:, at].T * math.log(2)
    _write(tiling, key_start, d_rows, k, k_table, norms, 1, d_k, d_norms)

    @pl.loop(0, tiling.backward[1], step=_ROWS)
    def _(first):
      at = pl.ds(pl.multiple_of(first, _ROWS), _ROWS)
      d_v[at, :] = d_values[:, at].T.astype(d_v.dtype)

  @pl.when(j == pl.num_programs(1) - 1)
  def _():
    def d_rows(at):
      at = pl.ds(pl.multiple_of(start + at.start, _ROWS), _ROWS)
      return d_queries[:, at].T * HEAD_DIM**-0.5

    _write(tiling, start, d_rows, q, q_table, norms, 0, d_q, d_norms)


def _cotangent(tiling, window, start, d_out, at):
  """Returns rows of the cotangent of a window's result.

  Args:
    tiling: sizes.
    window: number of the window.
    start: row of the window with which the block begins.
    d_out: block of the cotangent of the mean over windows.
    at: rows of the block.
  """
  x = d_out[at, :]
  row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0) + start + at.start
  is_shared = (row < tiling.overlap) & (window > 0)
  is_shared |= (row >= tiling.stride) & (window < tiling.windows - 1)
  x = jnp.where(is_shared, x * jnp.asarray(0.5, x.dtype), x)
  return tiling.before_padding(start + at.start, x)


def _prepare_queries(
  tiling, start, q, out, cotangent, log_sums, table, norms, queries, extras
):
  """Fills the scratch with a block's queries and what their lanes add."""

  @pl.loop(0, tiling.backward[0], step=_ROWS)
  def _(first):
    at = pl.ds(pl.multiple_of(first, _ROWS), _ROWS)
    to = pl.ds(pl.multiple_of(start + first, _ROWS), _ROWS)
    x = tpu_rows.placed(
      tiling.before_padding(to.start, q[at, :]).astype(tiling.wide),
      tpu_rows.Weights(norms[0:1, :], norms[1:2, :]),
      tpu_rows.rotary(table[at, :], HEAD_DIM),
      tiling.epsilon,
      tiling.units,
    )
    queries[to, :] = (x * tiling.query_factor).astype(tiling.dtype)
    product = out[at, :].astype(tiling.wide) * cotangent(at).astype(tiling.wide)
    means = tiling.two_parts(-tiling.units.sum_of_others(product))
    feature = tpu_rows.feature(_ROWS, HEAD_DIM)
    x = _log_sum_lanes(tiling, log_sums[:, at])
    for number, mean in enumerate(means):
      x = jnp.where(feature == MEAN + number, mean, x)
    extras[to, :] = x


def _log_sum_lanes(tiling, log_sums):
  """Returns one, and the logarithms [2, rows], in the other heads' lanes."""
  rows = [jnp.ones_like(log_sums).astype(tiling.dtype)]
  rows += tiling.two_parts(-log_sums)
  rows = jnp.concatenate(rows, axis=0)
  shape = (rows.shape[0], LANES)
  # Row 2 n + h belongs into feature n of the lanes beside head h.
  row, lane = (
    jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)
  )
  other = HEADS - 1 - jax.lax.rem(row, jnp.int32(HEADS))
  wanted = other * HEAD_DIM + jax.lax.div(row, jnp.int32(HEADS))
  place = jnp.where(lane == wanted, 1.0, 0.0).astype(tiling.dtype)
  lanes = tiling.products.transposed_times(rows, place)
  return lanes.astype(tiling.dtype)


def _prepare_keys(
  tiling, start, k, v, table, norms, keys, values, keys_transposed
):
  """Fills the scratch with a block's keys and values."""

  @pl.loop(0, tiling.backward[1], step=_ROWS)
  def _(first):
    at = pl.ds(pl.multiple_of(first, _ROWS), _ROWS)
    x = tpu_rows.placed(
      tiling.before_padding(start + first, k[at, :]).astype(tiling.wide),
      tpu_rows.Weights(norms[2:3, :], norms[3:4, :]),
      tpu_rows.rotary(table[at, :], HEAD_DIM),
      tiling.epsilon,
      tiling.units,
    ).astype(tiling.dtype)
    feature = tpu_rows.feature(_ROWS, HEAD_DIM)
    ones = lambda first: jnp.where(
      (feature == first) | (feature == first + 1), 1.0, 0.0
    ).astype(tiling.dtype)
    mask = tpu_forward.mask_lanes(tiling, start + first, _ROWS)
    keys_transposed[:, at] = x.T
    y = tiling.before_padding(start + first, v[at, :])
    for h in range(HEADS):
      own = tpu_rows.own_lanes(h, _ROWS, HEAD_DIM)
      keys[h, at, :] = jnp.where(own, x, mask + ones(LOG_SUM))
      values[h, at, :] = jnp.where(own, y, ones(MEAN))


def _add_products(
  tiling,
  start,
  d,
  queries,
  extras,
  keys,
  values,
  keys_transposed,
  d_queries,
  d_keys,
  d_values,
):
  """Adds the products of a block of queries and a block of keys."""
  rows = tiling.backward[0]
  at = pl.ds(start, rows)
  products = tiling.products
  q = queries[at, :]
  q_transposed, d_transposed = q.T, d.T
  for h in range(HEADS):
    head = slice(h * HEAD_DIM, (h + 1) * HEAD_DIM)
    own = tpu_rows.own_lanes(h, rows, HEAD_DIM)
    scores = products.times_transposed(
      jnp.where(own, q, extras[at, :]), keys[h]
    )
    p = jnp.exp2(scores)
    ds = p * products.times_transposed(
      jnp.where(own, d, extras[at, :]), values[h]
    )
    p, ds = p.astype(tiling.dtype), ds.astype(tiling.dtype)
    d_values[head, :] += products.times(d_transposed[head], p)
    d_keys[head, :] += products.times(q_transposed[head], ds)
    d_queries[head, at] += products.times_transposed(
      keys_transposed[head, :], ds
    )


def _write(tiling, start, d_rows, x, table, norms, part, d_x, d_norms):
  """Writes the gradient before norm and rotation, and adds those of the norm.

  Args:
    tiling: sizes.
    start: row of the window with which the block begins.
    d_rows: function of rows that returns their gradient after the rotation.
    x: block of queries or keys.
    table: its rows of the table.
    norms: weights of both norms.
    part: 0 for queries, 1 for keys.
    d_x: block of the gradient.
    d_norms: sums of the gradients of both norms.
  """
  weights = tpu_rows.Weights(*(norms[n : n + 1, :] for n in _rows_of(part)))

  @pl.loop(0, d_x.shape[0], step=_ROWS)
  def _(first):
    at = pl.ds(pl.multiple_of(first, _ROWS), _ROWS)
    found = tpu_rows.gradients(
      d_rows(at),
      tiling.before_padding(start + first, x[at, :]).astype(tiling.wide),
      weights,
      tpu_rows.rotary(table[at, :], HEAD_DIM),
      tiling.epsilon,
      tiling.units,
    )
    d_x[at, :] = found.x.astype(d_x.dtype)
    for n, d in zip(_rows_of(part), (found.scale, found.bias)):
      d_norms[n] += d.reshape(-1, _SUBLANES, LANES).sum(axis=0)


def _rows_of(part):
  return 2 * part, 2 * part + 1
