"""Forward kernel of attention within windows.

A grid step has the queries of one block and two heads. The keys and values of
the complete window stay in vector memory. Scores have their keys in sublanes:

    p = 2^(K' q'^T)        [keys, queries]
    o^T = [v | 1]^T p      [D + 16, queries]

so the probabilities are the stationary side of their product, only 80 rows pass
through the matrix unit, and one of them is the sum of the probabilities. The
vector unit is left with the powers of two.
"""

from __future__ import annotations

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import SUBLANES
from pallas_kernels.window_attention import tpu_rows
from pallas_kernels.window_attention import tpu_tiling
from pallas_kernels.window_attention.tpu_tiling import HEAD_DIM
from pallas_kernels.window_attention.tpu_tiling import HEADS
from pallas_kernels.window_attention.tpu_tiling import ROWS

# Rows of a head's transposed values with the rows of ones.
_VALUE_ROWS = HEAD_DIM + SUBLANES


def attend(
  tiling: tpu_tiling.Tiling,
  qkv: jax.Array,
  norms: jax.Array,
  table: jax.Array,
  is_bounded: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Runs the kernel.

  Args:
    tiling: sizes.
    qkv: [B, T, X].
    norms: [4, 128].
    table: [tokens of a window, 128].
    is_bounded: whether scores need no maximum, int32 [1].

  Returns:
    The result of all windows [B S, tokens, H D], and the logarithms to base 2
    of the sums of exponentials, [B S G, 2, tokens].
  """
  queries = tiling.forward[0]
  whole = lambda b, i, _: (0, 0)
  first = lambda i, _: 0
  block = lambda i, _: i
  return pl.pallas_call(
    functools.partial(_kernel, tiling),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(tiling.pairs, tiling.tokens // queries),
      in_specs=[
        tiling.in_sequence(queries, block, 0),
        tiling.in_sequence(tiling.tokens, first, 1),
        tiling.in_sequence(tiling.tokens, first, 2),
        # Never changes, so that one buffer is enough.
        pl.BlockSpec(table.shape, whole, pipeline_mode=pl.Buffered(1)),
        pl.BlockSpec(norms.shape, whole),
      ],
      out_specs=[
        tiling.in_windows(queries, block),
        pl.BlockSpec((None, HEADS, queries), lambda b, i, _: (b, 0, i)),
      ],
      scratch_shapes=[
        pltpu.VMEM((HEADS, tiling.tokens, LANES), tiling.dtype),
        pltpu.VMEM((HEADS, _VALUE_ROWS, tiling.tokens), tiling.dtype),
      ],
    ),
    out_shape=[
      jax.ShapeDtypeStruct(tiling.window_shape, qkv.dtype),
      jax.ShapeDtypeStruct((tiling.pairs, HEADS, tiling.tokens), tiling.wide),
    ],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'arbitrary'),
      vmem_limit_bytes=tiling.vmem_limit,
    ),
    name='window_attention_forward',
  )(is_bounded, qkv, qkv, qkv, table, norms)


def _kernel(
  tiling, is_bounded, q, k, v, table, norms, out, log_sums, keys, values
):
  block = pl.program_id(1)
  q, k, v = (ref.at[0] for ref in (q, k, v))

  @pl.when(block == 0)
  def _():
    _prepare_keys(tiling, k, v, table, norms, keys, values)

  rows = tiling.forward[0]
  start = pl.multiple_of(block * rows, LANES)
  x = tpu_rows.Part(tiling, norms, 0).placed(
    start, q[...], table[pl.ds(start, rows), :]
  )
  x = (x * tiling.query_factor).astype(tiling.dtype)
  one = jnp.where(tpu_rows.feature(rows) == tpu_tiling.MASK, 1.0, 0.0).astype(
    tiling.dtype
  )
  queries = [
    jnp.where(tpu_rows.own_lanes(h, rows), x, one) for h in range(HEADS)
  ]
  bounded = is_bounded[0] == 1
  for heads, is_number in tiling.numbers_of_heads(pl.program_id(0)):
    for run, is_wanted in ((_run, bounded), (_run_safely, ~bounded)):

      @pl.when(is_number & is_wanted)
      def _(run=run, heads=heads):
        results = run(tiling, queries[:heads], keys, values)
        _finish(tiling, start, out, log_sums, results)


def _prepare_keys(tiling, k, v, table, norms, keys, values):
  """Fills the scratch with keys and values of both heads, [2, ...]."""
  part = tpu_rows.Part(tiling, norms, 1)

  @pl.loop(0, tiling.tokens, step=ROWS)
  def _(start):
    at = pl.ds(pl.multiple_of(start, ROWS), ROWS)
    x = part.placed(start, k[at, :], table[at, :]).astype(tiling.dtype)
    mask = mask_lanes(tiling, start)
    transposed = tiling.before_padding(start, v[at, :]).T
    for h in range(HEADS):
      own = tpu_rows.own_lanes(h, ROWS)
      keys[h, at, :] = jnp.where(own, x, mask)
      values[h, :HEAD_DIM, at] = transposed[h * HEAD_DIM : (h + 1) * HEAD_DIM]
      values[h, HEAD_DIM:, at] = jnp.ones((SUBLANES, ROWS), tiling.dtype)


def mask_lanes(tiling: tpu_tiling.Tiling, start: jax.Array) -> jax.Array:
  """Returns `MASKED` in the lanes `MASK` of padding, else 0, [ROWS, 128]."""
  row = jax.lax.broadcasted_iota(jnp.int32, (ROWS, LANES), 0) + start
  is_masked = (row >= tiling.length) & (
    tpu_rows.feature(ROWS) == tpu_tiling.MASK
  )
  return jnp.where(is_masked, tpu_tiling.MASKED, 0.0).astype(tiling.dtype)


def _blocks_of_keys(tiling):
  """Returns the number of blocks that are not all padding."""
  return pl.cdiv(tiling.length, tiling.forward[1])


def _scores(tiling, queries, keys, values, number):
  """Yields each head's scores [keys, queries] and values [D + 16, keys]."""
  size = tiling.forward[1]
  at = pl.ds(pl.multiple_of(number * size, LANES), size)
  for h, q in enumerate(queries):
    yield tiling.products.times_transposed(keys[h, at, :], q), values[h, :, at]


def _run(tiling, queries, keys, values):
  """Returns each head's sums [D + 16, queries] and logarithm of their unit."""

  def body(number, sums):
    return tuple(
      total + tiling.products.times(v, jnp.exp2(scores).astype(tiling.dtype))
      for total, (scores, v) in zip(
        sums, _scores(tiling, queries, keys, values, number)
      )
    )

  zero = jnp.zeros((_VALUE_ROWS, tiling.forward[0]), tiling.wide)
  sums = jax.lax.fori_loop(
    0, _blocks_of_keys(tiling), body, (zero,) * len(queries)
  )
  return [(total, 0.0) for total in sums]


def _run_safely(tiling, queries, keys, values):
  """Like `_run`, for scores of any size: subtracts the running maximum."""

  def body(number, state):
    new = []
    for (total, largest), (scores, v) in zip(
      state, _scores(tiling, queries, keys, values, number)
    ):
      above = jnp.maximum(largest, scores.max(axis=0, keepdims=True))
      p = jnp.exp2(scores - above).astype(tiling.dtype)
      total = total * jnp.exp2(largest - above) + tiling.products.times(v, p)
      new.append((total, above))
    return tuple(new)

  rows = tiling.forward[0]
  zero = (
    jnp.zeros((_VALUE_ROWS, rows), tiling.wide),
    jnp.full((1, rows), tpu_tiling.MASKED, tiling.wide),
  )
  return jax.lax.fori_loop(
    0, _blocks_of_keys(tiling), body, (zero,) * len(queries)
  )


def _finish(tiling, start, out, log_sums, results):
  """Writes the block's result and logarithms."""
  log_sums[...] = jnp.zeros_like(log_sums)
  heads = []
  for h, (total, largest) in enumerate(results):
    sums = total[HEAD_DIM : HEAD_DIM + 1]
    heads.append(total[:HEAD_DIM] / sums)
    log_sums[h : h + 1, :] = jnp.log2(sums) + largest
  heads += [jnp.zeros_like(heads[0])] * (HEADS - len(heads))
  x = jnp.concatenate(heads, axis=0).T
  out[...] = tiling.before_padding(start, x).astype(out.dtype)
