"""Calls of the TPU kernels for which `compile_tpu` counts cycles.

Tokens are [1, T, H D] in and out, as in a model whose projections surround the
ops; the heads are split over the chips of a mesh.
"""

from __future__ import annotations

from collections.abc import Callable
import importlib
from typing import Any

import jax
import jax.numpy as jnp

import pallas_kernels
from pallas_kernels.permute_rows import pallas_tpu as permute_rows_tpu
from pallas_kernels.permute_rows import specs as permute_rows_specs
from pallas_kernels.specs import Spec
from pallas_kernels.types import Norm
from pallas_kernels.window_attention import tpu_sums as window_sums
from pallas_kernels.window_attention import tpu_tiling as window_tiling

# Name -> (heads, tokens, chips that share the heads). The paper's tokens are in
# 21 windows for attention.
SIZES = {'one_chip': (48, 70656, 1), 'paper_63s': (48, 352008, 4)}
# Op -> names of the sizes at which it is compiled.
CALLS = {
  'ttt_mlp': ('one_chip', 'paper_63s'),
  'ttt_linear': ('one_chip', 'paper_63s'),
  'ttt_inputs': ('paper_63s',),
  'permute_rows': ('paper_63s',),
  'window_attention': ('paper_63s',),
  'sum_windows': ('paper_63s',),
}
# Windows of 63 s of 480 x 720 pixels, tokens of a window, and to the next one.
WINDOWS, WINDOW, STRIDE = 21, 18_030, 16_680
HEAD_DIM = 64
MINI_BATCH = 64
# Lanes of a TPU: projections are padded to a multiple.
_LANES = 128

_P = jax.sharding.PartitionSpec
_SEQUENCE, _PER_HEAD, _COPIED = _P(None, None, 'heads'), _P('heads'), _P()


def units(op: str, size: str) -> int:
  """Returns the amount of work by which a chip's cycles are divided.

  Args:
    op: name in `CALLS`.
    size: name in `SIZES`.

  Returns:
    Mini-batches times heads; for `permute_rows` and `sum_windows` the number of
    tiles [C, D], and for `window_attention` windows times heads.
  """
  heads, tokens, chips = SIZES[size]
  columns = heads // chips
  if op == 'window_attention':
    return WINDOWS * columns
  if op == 'permute_rows':
    columns = _features(columns) // HEAD_DIM
  return -(-tokens // MINI_BATCH) * columns


def make(
  op: str, size: str, mesh: jax.sharding.Mesh
) -> tuple[Callable[..., Any], list[jax.ShapeDtypeStruct]]:
  """Returns a function, forward and backward, and its arguments' shapes.

  Args:
    op: name in `CALLS`.
    size: name in `SIZES`.
    mesh: mesh with one axis, 'heads'.
  """
  heads, tokens, chips = SIZES[size]
  if op == 'permute_rows':
    return _permute_rows(heads, chips, mesh)
  if op == 'window_attention':
    return _window_attention(heads, tokens, chips, mesh)
  if op == 'sum_windows':
    return _sum_windows(heads, tokens, chips, mesh)
  if op == 'ttt_inputs':
    return _ttt_inputs(heads, tokens, chips, mesh)
  return _inner_loop(op, heads, tokens, chips, mesh)


def loop_shares(op: str, size: str) -> dict[str, list[float]]:
  """Returns how often the kernels of the current chip run skippable loops.

  Args:
    op: name in `CALLS`.
    size: name in `SIZES`.

  Returns:
    'forward', 'backward' -> shares for `schedule.count_cycles`; nothing for
    kernels whose loops all run in every step.
  """
  if op != 'window_attention':
    return {}
  heads, tokens, chips = SIZES[size]
  return _window_tiling(heads // chips, tokens).loop_shares()


def _window_tiling(heads, tokens):
  return window_tiling.make(
    batch=1,
    sequence=tokens,
    windows=WINDOWS,
    stride=STRIDE,
    length=WINDOW,
    heads=heads,
    epsilon=1e-6,
    dtype=jnp.bfloat16,
  )


def _inner_loop(op, heads, tokens, chips, mesh):
  specs = importlib.import_module(f'pallas_kernels.{op}.specs')

  shapes = specs.shapes(Spec(1, heads, tokens, HEAD_DIM, 4 * HEAD_DIM))
  weights = [s for n, s in shapes.items() if n not in ('q', 'k', 'v', 'eta')]

  def to_heads(x):
    return x.reshape(1, tokens, heads // chips, HEAD_DIM).swapaxes(1, 2)

  def both(d_out, *arguments):
    def forward(q, k, v, eta, *weights):
      out, _ = getattr(pallas_kernels, op)(
        to_heads(q),
        to_heads(k),
        to_heads(v),
        eta.swapaxes(1, 2),
        *weights,
        mini_batch=MINI_BATCH,
        implementation='pallas_tpu',
      )
      return out.swapaxes(1, 2).reshape(q.shape)

    out, pull = jax.vjp(forward, *arguments)
    return out, pull(d_out)

  sequence = jax.ShapeDtypeStruct((1, tokens, heads * HEAD_DIM), jnp.bfloat16)
  eta = jax.ShapeDtypeStruct((1, tokens, heads), jnp.float32)
  inputs = (_SEQUENCE,) * 4 + (_PER_HEAD,) * len(weights)
  return _sharded(
    both,
    mesh,
    [sequence] * 4 + [eta] + weights,
    (_SEQUENCE, *inputs),
    (_SEQUENCE, inputs),
  )


def _ttt_inputs(heads, tokens, chips, mesh):
  width = heads // chips * HEAD_DIM
  tokens = -(-tokens // (chips * MINI_BATCH)) * chips * MINI_BATCH

  def both(d_qkv, d_eta, z, cos, sin, *norm):
    def forward(z, *norm):
      *qkv, eta = pallas_kernels.ttt_inputs(
        z,
        cos,
        sin,
        *norm,
        rate=1e-5,
        length=tokens - 1,
        implementation='pallas_tpu',
      )
      qkv = (x.swapaxes(1, 2).reshape(1, tokens, width) for x in qkv)
      return *qkv, eta.swapaxes(1, 2)

    out, pull = jax.vjp(forward, z, *norm)
    return out, pull((*[d_qkv] * 3, d_eta))

  struct = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype)
  sequence = struct(jnp.bfloat16, 1, tokens, chips * width)
  eta = struct(jnp.float32, 1, tokens, heads)
  z = struct(jnp.bfloat16, 1, tokens, chips * _features(heads // chips))
  table = struct(jnp.float32, tokens, HEAD_DIM)
  weight = struct(jnp.float32, heads, HEAD_DIM)
  return _sharded(
    both,
    mesh,
    [sequence, eta, z, table, table, weight, weight],
    (_SEQUENCE, _SEQUENCE, _SEQUENCE, _COPIED, _COPIED, _PER_HEAD, _PER_HEAD),
    ((_SEQUENCE,) * 4, (_SEQUENCE, _PER_HEAD, _PER_HEAD)),
  )


def _permute_rows(heads, chips, mesh):
  permutation = permute_rows_specs.paper_63s()
  z = jax.ShapeDtypeStruct(
    (1, permutation.length, chips * _features(heads // chips)), jnp.bfloat16
  )
  return _sharded(
    lambda z: permute_rows_tpu.permute_rows(z, permutation),
    mesh,
    [z],
    (_SEQUENCE,),
    _SEQUENCE,
  )


def _window_attention(heads, tokens, chips, mesh):
  width = heads // chips * HEAD_DIM

  def both(d_out, qkv, cos, sin, *norms):
    def forward(qkv, *norms):
      return pallas_kernels.window_attention(
        qkv,
        Norm(*norms[:2]),
        Norm(*norms[2:]),
        cos,
        sin,
        heads=heads // chips,
        windows=WINDOWS,
        stride=STRIDE,
        epsilon=1e-6,
        implementation='pallas_tpu',
      )

    out, pull = jax.vjp(forward, qkv, *norms)
    return out, pull(d_out)

  struct = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype)
  sequence = lambda parts: struct(
    jnp.bfloat16, 1, tokens, parts * chips * width
  )
  table = struct(jnp.float32, WINDOW, HEAD_DIM)
  weight = struct(jnp.float32, HEAD_DIM)
  return _sharded(
    both,
    mesh,
    [sequence(1), sequence(3), table, table, *[weight] * 4],
    (_SEQUENCE, _SEQUENCE, *[_COPIED] * 6),
    (_SEQUENCE, (_SEQUENCE, *[_COPIED] * 4)),
  )


def _sum_windows(heads, tokens, chips, mesh):
  def mean(x):
    tiling = _window_tiling(heads // chips, tokens)
    return window_sums.sum_windows(tiling, [x], x.shape[2], 0.5)

  padded = _window_tiling(heads, tokens).window_shape
  windows = jax.ShapeDtypeStruct(padded, jnp.bfloat16)
  return _sharded(mean, mesh, [windows], (_SEQUENCE,), _SEQUENCE)


def _features(heads):
  """Returns the features of the projections to q, k, v and step sizes."""
  return -(-(3 * heads * HEAD_DIM + heads) // _LANES) * _LANES


def _sharded(function, mesh, shapes, inputs, outputs):
  function = jax.shard_map(
    function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False
  )
  arguments = [
    shape.update(sharding=jax.sharding.NamedSharding(mesh, spec))
    for shape, spec in zip(shapes, inputs)
  ]
  return function, arguments
