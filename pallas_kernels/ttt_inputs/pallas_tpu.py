"""The inputs of the inner loop as Pallas kernels for TPU.

Each token is read once and written once: the kernels take about the time of
their memory traffic. Heads share the lanes in the order of the projections, see
`pallas_kernels.tpu.packing`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from pallas_kernels.tpu import rows as rows_lib
from pallas_kernels.tpu import target
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import lanes
from pallas_kernels.tpu.packing import Packing
from pallas_kernels.tpu.tiling import HEAD_DIMS
from pallas_kernels.ttt_inputs import tpu_rows

# Rows and packs that are computed at a time: a multiple of every dtype's tile,
# and as many as the registers hold.
_ROWS = 128
_PACKS = 6
# Approximate bytes of a block of z: with much smaller blocks, the overhead of a
# grid step dominates.
_BLOCK_BYTES = 2 * 2**20
# Rows of a float32 tile.
_SUBLANES = 8


@dataclasses.dataclass(frozen=True)
class _Tiling:
  """Sizes of one call; all static.

  Attributes:
    heads: H.
    head_dim: D.
    rate: largest step size.
    length: number of tokens that are not padding.
    tokens: T.
    rows: rows of a block, a multiple of `_ROWS`.
    wide: dtype of the arithmetic.
  """

  heads: int
  head_dim: int
  rate: float
  length: int
  tokens: int
  rows: int
  wide: jnp.dtype

  @property
  def width(self) -> int:
    """H D."""
    return self.heads * self.head_dim

  @property
  def groups(self) -> list[range]:
    """Packs that are computed together."""
    packs = range(self.width // LANES)
    return [packs[i : i + _PACKS] for i in packs[::_PACKS]]

  def part_packs(self, packs: range, part: int) -> range:
    """Returns the packs of q (part 0), k (1) or v (2), counted in z."""
    first = part * self.width // LANES
    return range(first + packs.start, first + packs.stop)


def ttt_inputs(
  z: jax.Array,
  cos: jax.Array,
  sin: jax.Array,
  ln_scale: jax.Array,
  ln_bias: jax.Array,
  *,
  rate: float,
  length: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Implements `api.ttt_inputs`; differentiable in reverse mode only.

  Raises:
    NotImplementedError: a size or a dtype is not supported.
  """
  num_heads, dim = ln_scale.shape
  if dim not in HEAD_DIMS:
    raise NotImplementedError(
      f'head dim {dim}: the TPU kernels have {", ".join(map(str, HEAD_DIMS))}'
    )
  if z.dtype == jnp.float16:
    raise NotImplementedError(
      'float16: the TPU kernels take bfloat16 or float32'
    )
  heads = -(-num_heads * dim // LANES) * LANES // dim
  if heads > num_heads:
    z = _append_heads(z, num_heads, heads, dim)
    ln_scale, ln_bias = (
      jnp.pad(w, ((0, heads - num_heads), (0, 0))) for w in (ln_scale, ln_bias)
    )
  batch, tokens, features = z.shape
  rows = _BLOCK_BYTES // (features * z.dtype.itemsize)
  rows = min(max(rows, _ROWS), tokens + _ROWS - 1) // _ROWS * _ROWS
  tiling = _Tiling(heads, dim, rate, length, tokens, rows, cos.dtype)
  norm = (w.astype(cos.dtype).reshape(1, -1) for w in (ln_scale, ln_bias))
  *qkv, eta = _inputs(tiling, z, cos, sin, *norm)
  # Sliced in their memory layout: slicing an axis of heads costs a transpose.
  q, k, v = (
    y[:, :, : num_heads * dim].reshape(batch, tokens, num_heads, dim)
    for y in qkv
  )
  return tuple(y.swapaxes(1, 2) for y in (q, k, v, eta[:, :, :num_heads]))


def _append_heads(z, heads, new_heads, dim):
  """Pads projections of `heads` heads with zeros to `new_heads` heads."""
  width = heads * dim
  sizes = [width] * 3 + [heads, z.shape[2] - 3 * width - heads]
  *parts, _ = jax.lax.split(z, sizes, axis=2)
  padding = lambda x: x.shape[2] // heads * (new_heads - heads)
  parts = [jnp.pad(x, ((0, 0), (0, 0), (0, padding(x)))) for x in parts]
  return jnp.concatenate(parts, axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _inputs(tiling, z, cos, sin, scale, bias):
  """Returns q, k, v [B, T, H D] and eta [B, T, H] of z [B, T, X]."""
  shape = lambda x, dtype: jax.ShapeDtypeStruct((*z.shape[:2], x), dtype)
  widths = [tiling.width] * 3 + [tiling.heads]
  dtypes = [z.dtype] * 3 + [cos.dtype]
  return _call(
    _forward_kernel,
    'ttt_inputs_forward',
    tiling,
    [z, cos, sin, scale, bias],
    [_sequence(tiling, z), *_shared(tiling, cos, scale)],
    [shape(*pair) for pair in zip(widths, dtypes)],
    [_sequence(tiling, shape(*pair)) for pair in zip(widths, dtypes)],
  )


def _inputs_forward(tiling, *arguments):
  return _inputs(tiling, *arguments), arguments


def _inputs_backward(tiling, arguments, cotangents):
  z, cos, _, scale, _ = arguments
  blocks = pl.cdiv(tiling.tokens, tiling.rows)
  sums = jax.ShapeDtypeStruct(
    (z.shape[0], blocks, _SUBLANES, tiling.width), cos.dtype
  )
  sum_spec = pl.BlockSpec(
    (None, None, *sums.shape[2:]), lambda b, i: (b, i, 0, 0)
  )
  d_z, *d_norm = _call(
    _backward_kernel,
    'ttt_inputs_backward',
    tiling,
    [*arguments, *cotangents],
    [
      _sequence(tiling, z),
      *_shared(tiling, cos, scale),
      *(_sequence(tiling, d) for d in cotangents),
    ],
    [jax.ShapeDtypeStruct(z.shape, z.dtype), sums, sums],
    [_sequence(tiling, z), sum_spec, sum_spec],
  )
  d_scale, d_bias = (d.sum(axis=(0, 1, 2))[None] for d in d_norm)
  return d_z, None, None, d_scale, d_bias


_inputs.defvjp(_inputs_forward, _inputs_backward)


def _sequence(tiling: _Tiling, x: Any) -> pl.BlockSpec:
  """Returns the blocks of [B, T, X]."""
  return pl.BlockSpec((None, tiling.rows, x.shape[2]), lambda b, i: (b, i, 0))


def _shared(tiling: _Tiling, cos: Any, scale: Any) -> list[pl.BlockSpec]:
  """Returns the blocks of cos, sin, scale and bias."""
  table = pl.BlockSpec((tiling.rows, cos.shape[1]), lambda b, i: (i, 0))
  weight = pl.BlockSpec(scale.shape, lambda b, i: (0, 0))
  return [table, table, weight, weight]


def _call(kernel, name, tiling, arguments, in_specs, results, out_specs):
  """Runs a kernel on every block of rows."""
  return pl.pallas_call(
    functools.partial(kernel, tiling),
    grid=(arguments[0].shape[0], pl.cdiv(tiling.tokens, tiling.rows)),
    in_specs=in_specs,
    out_specs=out_specs,
    out_shape=results,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel'),
      vmem_limit_bytes=target.current().vmem,
    ),
    name=name,
  )(*arguments)


def _forward_kernel(tiling, z, cos, sin, scale, bias, q, k, v, eta):
  start = pl.program_id(1) * tiling.rows
  units = _units(tiling, z)

  @pl.loop(0, tiling.rows, step=_ROWS)
  def _(first):
    rows = pl.ds(pl.multiple_of(first, _ROWS), _ROWS)
    for group in tiling.groups:
      out = tpu_rows.inputs(
        _projections(tiling, group, z, rows),
        rows_lib.Rotary.for_packs(cos[rows, :], sin[rows, :], len(group)),
        _weight(group, scale),
        _weight(group, bias),
        units,
      )
      for ref, x in zip((q, k, v), out):
        _write(group, ref, rows, x)
    gate = _gate(tiling, z, rows)
    valid = _rows_before(tiling.length - start, rows, gate.shape)
    eta[rows, :] = jnp.where(valid, gate * tiling.rate, 0)


def _backward_kernel(
  tiling, z, cos, sin, scale, _, d_q, d_k, d_v, d_eta, d_z, d_scale, d_bias
):
  start = pl.program_id(1) * tiling.rows
  units = _units(tiling, z)
  for ref in (d_scale, d_bias):
    ref[...] = jnp.zeros_like(ref)

  @pl.loop(0, tiling.rows, step=_ROWS)
  def _(first):
    rows = pl.ds(pl.multiple_of(first, _ROWS), _ROWS)
    exists = _rows_before(tiling.tokens - start, rows, (_ROWS, LANES))
    for group in tiling.groups:
      cotangents = tpu_rows.Rows(
        *(_read(tiling, group, ref, rows) for ref in (d_q, d_k, d_v))
      )
      d_rows, d_row_scale = tpu_rows.gradients(
        _projections(tiling, group, z, rows),
        rows_lib.Rotary.for_packs(cos[rows, :], sin[rows, :], len(group)),
        _weight(group, scale),
        cotangents,
        units,
      )
      for part, d in enumerate(d_rows):
        _write(tiling.part_packs(group, part), d_z, rows, d)
      for ref, d in ((d_scale, d_row_scale), (d_bias, cotangents.v)):
        for p, x in zip(group, jnp.split(d, len(group))):
          # The last block extends past the array, where memory is undefined.
          x = jnp.where(exists, x, 0)
          ref[:, lanes(p)] += x.reshape(-1, _SUBLANES, LANES).sum(axis=0)
    gate = _gate(tiling, z, rows)
    valid = _rows_before(tiling.length - start, rows, gate.shape)
    d_gate = jnp.where(valid, d_eta[rows, :] * tiling.rate, 0)
    d_gate *= gate * (1 - gate)
    padding = d_z.shape[1] - 3 * tiling.width - tiling.heads
    d_gate = jnp.pad(d_gate, ((0, 0), (0, padding)))
    d_z[rows, 3 * tiling.width :] = d_gate.astype(d_z.dtype)


def _units(tiling, z):
  return rows_lib.Units(Packing(tiling.head_dim, _ROWS), z.dtype, tiling.wide)


def _read(tiling, packs, ref, rows):
  """Returns the rows of some packs of a block [rows, P 128], stacked."""
  return jnp.concatenate(
    [ref[rows, lanes(p)].astype(tiling.wide) for p in packs]
  )


def _write(packs, ref, rows, x):
  """Writes the result of `_read` back to the packs."""
  for p, part in zip(packs, jnp.split(x, len(packs))):
    ref[rows, lanes(p)] = part.astype(ref.dtype)


def _projections(tiling, group, z, rows):
  """Returns q, k and v of some packs."""
  parts = (tiling.part_packs(group, part) for part in range(3))
  return tpu_rows.Rows(*(_read(tiling, packs, z, rows) for packs in parts))


def _weight(group, ref):
  """Returns a weight [1, P 128], repeated for the stacked rows of packs."""
  return jnp.concatenate(
    [jnp.broadcast_to(ref[:, lanes(p)], (_ROWS, LANES)) for p in group]
  )


def _gate(tiling, z, rows):
  """Returns sigmoid(r), [rows, H]."""
  r = z[rows, 3 * tiling.width : 3 * tiling.width + tiling.heads]
  return jax.nn.sigmoid(r.astype(tiling.wide))


def _rows_before(end, rows, shape):
  """Returns which of the rows precede row `end` of the block."""
  row = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
  return row < end - rows.start
