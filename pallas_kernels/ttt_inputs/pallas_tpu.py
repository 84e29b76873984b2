"""The inputs of the inner loop as Pallas kernels for TPU.

Each token is read once and written once: the kernels take about the time of
their memory traffic. Heads lie side by side in the lanes as the projections
leave them, see `pallas_kernels.tpu.packing`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from pallas_kernels.tpu import chip
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import lanes
from pallas_kernels.tpu.packing import Packing
from pallas_kernels.tpu.plan import HEAD_DIMS
from pallas_kernels.ttt_inputs import tpu_rows

# Rows and packs that are computed at a time: a tile of every dtype, and as
# many as the registers hold.
_ROWS = 128
_PACKS = 6
# Bytes of a block of z, about: smaller ones are ruled by the cost of a step.
_BLOCK_BYTES = 2 * 2**20
# Rows of a float32 tile.
_SUBLANES = 8


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What a call is made for.

  Attributes:
    heads: H.
    head_dim: D.
    rate: largest step size.
    length: tokens that are real.
    tokens: T.
    rows: of a block, a multiple of `_ROWS`.
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

  def of_part(self, packs: range, part: int) -> range:
    """Returns where z has the packs of q (0), k (1) or v (2)."""
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
  """Returns what `api.ttt_inputs` says; reverse-mode differentiable only.

  Raises:
    NotImplementedError: sizes that the kernels do not have.
  """
  real_heads, dim = ln_scale.shape
  if dim not in HEAD_DIMS:
    raise NotImplementedError(
      f'head dim {dim}: the TPU kernels have {", ".join(map(str, HEAD_DIMS))}'
    )
  if z.dtype == jnp.float16:
    raise NotImplementedError(
      'float16: the TPU kernels take bfloat16 or float32'
    )
  heads = -(-real_heads * dim // LANES) * LANES // dim
  if heads > real_heads:
    z = _append_heads(z, real_heads, heads, dim)
    ln_scale, ln_bias = (
      jnp.pad(w, ((0, heads - real_heads), (0, 0))) for w in (ln_scale, ln_bias)
    )
  batch, tokens, features = z.shape
  rows = _BLOCK_BYTES // (features * z.dtype.itemsize)
  rows = min(max(rows, _ROWS), tokens + _ROWS - 1) // _ROWS * _ROWS
  plan = _Plan(heads, dim, rate, length, tokens, rows, cos.dtype)
  norm = (w.astype(cos.dtype).reshape(1, -1) for w in (ln_scale, ln_bias))
  *qkv, eta = _inputs(plan, z, cos, sin, *norm)
  # Cut as they lie in memory: to cut an axis of heads costs a transpose.
  q, k, v = (
    y[:, :, : real_heads * dim].reshape(batch, tokens, real_heads, dim)
    for y in qkv
  )
  return tuple(y.swapaxes(1, 2) for y in (q, k, v, eta[:, :, :real_heads]))


def _append_heads(z, heads, more, dim):
  """Projections of `heads` heads as those of `more`, zeros for the new."""
  width = heads * dim
  sizes = [width] * 3 + [heads, z.shape[2] - 3 * width - heads]
  *parts, _ = jax.lax.split(z, sizes, axis=2)
  fill = lambda x: x.shape[2] // heads * (more - heads)
  parts = [jnp.pad(x, ((0, 0), (0, 0), (0, fill(x)))) for x in parts]
  return jnp.concatenate(parts, axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _inputs(plan, z, cos, sin, scale, bias):
  """z [B, T, X] -> q, k, v [B, T, H D], eta [B, T, H]."""
  shape = lambda x, dtype: jax.ShapeDtypeStruct((*z.shape[:2], x), dtype)
  widths = [plan.width] * 3 + [plan.heads]
  dtypes = [z.dtype] * 3 + [cos.dtype]
  return _call(
    _forward_kernel,
    'ttt_inputs_forward',
    plan,
    [z, cos, sin, scale, bias],
    [_sequence(plan, z), *_shared(plan, cos, scale)],
    [shape(*pair) for pair in zip(widths, dtypes)],
    [_sequence(plan, shape(*pair)) for pair in zip(widths, dtypes)],
  )


def _inputs_forward(plan, *arguments):
  return _inputs(plan, *arguments), arguments


def _inputs_backward(plan, arguments, cotangents):
  z, cos, _, scale, _ = arguments
  blocks = pl.cdiv(plan.tokens, plan.rows)
  sums = jax.ShapeDtypeStruct(
    (z.shape[0], blocks, _SUBLANES, plan.width), cos.dtype
  )
  sum_spec = pl.BlockSpec(
    (None, None, *sums.shape[2:]), lambda b, i: (b, i, 0, 0)
  )
  d_z, *d_norm = _call(
    _backward_kernel,
    'ttt_inputs_backward',
    plan,
    [*arguments, *cotangents],
    [
      _sequence(plan, z),
      *_shared(plan, cos, scale),
      *(_sequence(plan, d) for d in cotangents),
    ],
    [jax.ShapeDtypeStruct(z.shape, z.dtype), sums, sums],
    [_sequence(plan, z), sum_spec, sum_spec],
  )
  d_scale, d_bias = (d.sum(axis=(0, 1, 2))[None] for d in d_norm)
  return d_z, None, None, d_scale, d_bias


_inputs.defvjp(_inputs_forward, _inputs_backward)


def _sequence(plan: _Plan, x: Any) -> pl.BlockSpec:
  """Blocks of [B, T, X]."""
  return pl.BlockSpec((None, plan.rows, x.shape[2]), lambda b, i: (b, i, 0))


def _shared(plan: _Plan, cos: Any, scale: Any) -> list[pl.BlockSpec]:
  """Blocks of cos, sin, scale and bias."""
  table = pl.BlockSpec((plan.rows, cos.shape[1]), lambda b, i: (i, 0))
  weight = pl.BlockSpec(scale.shape, lambda b, i: (0, 0))
  return [table, table, weight, weight]


def _call(kernel, name, plan, arguments, in_specs, results, out_specs):
  """Runs a kernel on every block of rows."""
  return pl.pallas_call(
    functools.partial(kernel, plan),
    grid=(arguments[0].shape[0], pl.cdiv(plan.tokens, plan.rows)),
    in_specs=in_specs,
    out_specs=out_specs,
    out_shape=results,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel'),
      vmem_limit_bytes=chip.current().vmem,
    ),
    name=name,
  )(*arguments)


def _forward_kernel(plan, z, cos, sin, scale, bias, q, k, v, eta):
  start = pl.program_id(1) * plan.rows
  units = _units(plan, z)

  @pl.loop(0, plan.rows, step=_ROWS)
  def _(first):
    rows = pl.ds(pl.multiple_of(first, _ROWS), _ROWS)
    for group in plan.groups:
      out = tpu_rows.inputs(
        _projections(plan, group, z, rows),
        tpu_rows.Rotary.make(cos[rows, :], sin[rows, :], len(group)),
        _weight(group, scale),
        _weight(group, bias),
        units,
      )
      for ref, x in zip((q, k, v), out):
        _write(group, ref, rows, x)
    gate = _gate(plan, z, rows)
    real = _before(plan.length - start, rows, gate.shape)
    eta[rows, :] = jnp.where(real, gate * plan.rate, 0)


def _backward_kernel(
  plan, z, cos, sin, scale, _, d_q, d_k, d_v, d_eta, d_z, d_scale, d_bias
):
  start = pl.program_id(1) * plan.rows
  units = _units(plan, z)
  for ref in (d_scale, d_bias):
    ref[...] = jnp.zeros_like(ref)

  @pl.loop(0, plan.rows, step=_ROWS)
  def _(first):
    rows = pl.ds(pl.multiple_of(first, _ROWS), _ROWS)
    exists = _before(plan.tokens - start, rows, (_ROWS, LANES))
    for group in plan.groups:
      cotangents = tpu_rows.Rows(
        *(_read(plan, group, ref, rows) for ref in (d_q, d_k, d_v))
      )
      d_rows, d_row_scale = tpu_rows.gradients(
        _projections(plan, group, z, rows),
        tpu_rows.Rotary.make(cos[rows, :], sin[rows, :], len(group)),
        _weight(group, scale),
        cotangents,
        units,
      )
      for part, d in enumerate(d_rows):
        _write(plan.of_part(group, part), d_z, rows, d)
      for ref, d in ((d_scale, d_row_scale), (d_bias, cotangents.v)):
        for p, x in zip(group, jnp.split(d, len(group))):
          # A block at the end reaches over the array: anything may lie there.
          x = jnp.where(exists, x, 0)
          ref[:, lanes(p)] += x.reshape(-1, _SUBLANES, LANES).sum(axis=0)
    gate = _gate(plan, z, rows)
    real = _before(plan.length - start, rows, gate.shape)
    d_gate = jnp.where(real, d_eta[rows, :] * plan.rate, 0)
    d_gate *= gate * (1 - gate)
    fill = d_z.shape[1] - 3 * plan.width - plan.heads
    d_gate = jnp.pad(d_gate, ((0, 0), (0, fill)))
    d_z[rows, 3 * plan.width :] = d_gate.astype(d_z.dtype)


def _units(plan, z):
  return tpu_rows.Units(Packing(plan.head_dim, _ROWS), z.dtype, plan.wide)


def _read(plan, packs, ref, rows):
  """Rows of some packs of a block [rows, P 128], one below the other."""
  return jnp.concatenate([ref[rows, lanes(p)].astype(plan.wide) for p in packs])


def _write(packs, ref, rows, x):
  """The inverse of `_read`."""
  for p, part in zip(packs, jnp.split(x, len(packs))):
    ref[rows, lanes(p)] = part.astype(ref.dtype)


def _projections(plan, group, z, rows):
  """q, k and v of some packs."""
  parts = (plan.of_part(group, part) for part in range(3))
  return tpu_rows.Rows(*(_read(plan, packs, z, rows) for packs in parts))


def _weight(group, ref):
  """A weight [1, P 128] for the rows of some packs."""
  return jnp.concatenate(
    [jnp.broadcast_to(ref[:, lanes(p)], (_ROWS, LANES)) for p in group]
  )


def _gate(plan, z, rows):
  """sigmoid(r), [rows, H]."""
  rates = z[rows, 3 * plan.width : 3 * plan.width + plan.heads]
  return jax.nn.sigmoid(rates.astype(plan.wide))


def _before(end, rows, shape):
  """Which of the rows come before row `end` of the block."""
  row = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
  return row < end - rows.start
