"""The three kernels of an inner loop on a GPU.

    forward   one program per (b, h) visits n = 0 .. N-1 with the state in
              registers; writes out and, for training, every G-th state.
    replay    one program per (b, h, group), all groups of a span in parallel:
              starts from the checkpoint, writes each state and the reads'
              part of its cotangent, and computes d_q.
    reverse   one program per (b, h) visits the span in reverse with the
              cotangent of the state in registers; writes d_k, d_v, d_eta.

The gradient of the reads does not depend on the cotangent that comes from later
mini-batches: that half of the work is in `replay`, which occupies the complete
GPU. `forward` and `reverse` occupy only B x H of its multiprocessors (48 of an
H100's 132 in the paper's model with batch 1).

Tokens are read in place, [B, H, T, D]; a mask replaces those after the end by
zeros: eta = 0 does not change the state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

from pallas_kernels.gpu.tiles import load_rows
from pallas_kernels.gpu.tiles import make_opaque_true
from pallas_kernels.gpu.tiles import store_rows
from pallas_kernels.gpu.tiling import Tiling
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens

State = tuple[jax.Array, ...]


class InnerModel(NamedTuple):
  """An inner model's equations on the tiles of one head and mini-batch.

  States and their cotangents are arrays of one head in float32; weights may be
  narrowed to the dtype of the tokens. Norms are [D]. `opaque_true` is an
  argument of `tiles.fence`.

  Attributes:
    step: (state, k, v, eta, norm, opaque_true) -> next state.
    read: (state, q, norm, opaque_true) -> out.
    read_backward: (state, q, norm, d_out, opaque_true) -> (d_q, d_state,
      d_norm).
    step_backward: (state, k, v, eta, norm, d_next, opaque_true) -> (d_state,
      d_k, d_v, d_eta, d_norm).
    warps: warps of a program in (forward, replay, reverse).
  """

  step: Callable[..., State]
  read: Callable[..., jax.Array]
  read_backward: Callable[..., tuple[jax.Array, State, Norm]]
  step_backward: Callable[..., tuple[Any, ...]]
  warps: tuple[int, int, int]


def forward(
  model: InnerModel,
  tiling: Tiling,
  tokens: Tokens,
  state: State,
  norm: Norm,
  *,
  checkpoints: bool,
) -> list[jax.Array]:
  """Returns [out, *last state] and, if `checkpoints`, [B, H, groups, ...]."""
  q = tokens[0]
  parts = len(state)
  shapes = [_like(q), *map(_like, state)]
  if checkpoints:
    shapes += [_like(x, tiling.groups) for x in state]

  def kernel(*refs):
    refs, out, saved = _split(refs, len(refs) - len(shapes), 1)
    tokens, first, norm = _split(refs, 4, parts)
    norm = Norm(*_load(norm))
    opaque_true = make_opaque_true()

    def mini_batch(n, state):
      q, k, v, eta = (load_rows(x, n, tiling.mini_batch) for x in tokens)
      state = tuple(
        model.step(state, k, v, eta.astype(jnp.float32), norm, opaque_true)
      )
      out_rows = model.read(state, q, norm, opaque_true)
      store_rows(out[0], n, tiling.mini_batch, out_rows)
      return state

    def group(g, state):
      if checkpoints:
        _store(saved[parts:], state, g)
      return jax.lax.fori_loop(*_group(tiling, g), mini_batch, state)

    last = jax.lax.fori_loop(0, tiling.groups, group, _load(first))
    _store(saved[:parts], last)

  return _call(
    kernel,
    'ttt_forward',
    q.shape[:2],
    model.warps[0],
    [*tokens, *state],
    norm,
    shapes,
  )


def replay(
  model: InnerModel,
  tiling: Tiling,
  index: jax.Array,
  tokens: Tokens,
  norm: Norm,
  checkpoints: Sequence[jax.Array],
  d_out: jax.Array,
  d_q: jax.Array,
) -> list[jax.Array]:
  """Returns [d_q, *states, *their cotangents through the reads, *d_norm].

  States and cotangents are [B, H, S * G, ...], weights in the tokens' dtype;
  d_norm is [B, H, S, D]. d_q is the argument with the span's rows written.
  """
  q = tokens[0]
  per_state = [
    _like(x[:, :, 0], tiling.span * tiling.group, _stored(x, q))
    for x in checkpoints
  ]
  shapes = [_like(d_q), *per_state, *per_state]
  shapes += [
    jax.ShapeDtypeStruct((*q.shape[:2], tiling.span, q.shape[-1]), jnp.float32)
  ] * 2
  parts = len(checkpoints)

  def kernel(*refs):
    refs, d_q, results = _split(refs, len(refs) - len(shapes), 1)
    (index, *tokens), saved, rest = _split(refs, 5, parts)
    d_out, _, *norm = rest
    states, reads, d_norms = _parts(results, parts)
    norm = Norm(*_load(norm))
    opaque_true = make_opaque_true()
    span_first = index[0] * tiling.span
    group_in_span = pl.program_id(2)
    g = span_first + group_in_span
    offset = span_first * tiling.group

    def mini_batch(n, carry):
      state, d_norm = carry
      _store(states, state, n - offset)
      q, k, v, eta = (load_rows(x, n, tiling.mini_batch) for x in tokens)
      state = tuple(
        model.step(state, k, v, eta.astype(jnp.float32), norm, opaque_true)
      )
      d_q_rows, d_read, d_norm_step = model.read_backward(
        state, q, norm, load_rows(d_out, n, tiling.mini_batch), opaque_true
      )
      store_rows(d_q[0], n, tiling.mini_batch, d_q_rows)
      _store(reads, d_read, n - offset)
      return state, tuple(map(jnp.add, d_norm, d_norm_step))

    state = _load(saved, jnp.minimum(g, tiling.groups - 1))
    zeros = tuple(map(jnp.zeros_like, norm))
    _, d_norm = jax.lax.fori_loop(
      *_group(tiling, g), mini_batch, (state, zeros)
    )
    _store(d_norms, d_norm, group_in_span)

  return _call(
    kernel,
    'ttt_replay',
    (*q.shape[:2], tiling.span),
    model.warps[1],
    [index, *tokens, *checkpoints, d_out, d_q],
    norm,
    shapes,
    aliases={6 + parts: 0},
  )


def reverse(
  model: InnerModel,
  tiling: Tiling,
  index: jax.Array,
  tokens: Tokens,
  norm: Norm,
  states: Sequence[jax.Array],
  reads: Sequence[jax.Array],
  d_state: State,
  d_tokens: Sequence[jax.Array],
) -> list[jax.Array]:
  """Returns [d_k, d_v, d_eta, *d_state, *d_norm [B, H, D]].

  The first three are the arguments with the span's rows written.
  """
  k = tokens[1]
  b, h, _, d = k.shape
  parts = len(states)
  shapes = [*map(_like, d_tokens), *map(_like, d_state)]
  shapes += [jax.ShapeDtypeStruct((b, h, d), jnp.float32)] * 2
  size = tiling.span * tiling.group

  def kernel(*refs):
    refs, d_rows, results = _split(refs, len(refs) - len(shapes), 3)
    (index, *tokens), states, refs = _split(refs, 4, parts)
    reads, d_last, refs = _split(refs, parts, parts)
    norm = Norm(*_load(refs[3:]))
    opaque_true = make_opaque_true()
    offset = index[0] * size
    end = jnp.minimum(offset + size, tiling.count)

    def mini_batch(i, carry):
      d_state, d_norm = carry
      n = end - 1 - i
      state = tuple(x[n - offset] for x in states)
      d_state = tuple(map(jnp.add, d_state, _load(reads, n - offset)))
      k, v, eta = (load_rows(x, n, tiling.mini_batch) for x in tokens)
      d_state, *rows, d_norm_step = model.step_backward(
        state, k, v, eta.astype(jnp.float32), norm, d_state, opaque_true
      )
      for ref, values in zip(d_rows, rows):
        store_rows(ref, n, tiling.mini_batch, values)
      return tuple(d_state), tuple(map(jnp.add, d_norm, d_norm_step))

    zeros = tuple(map(jnp.zeros_like, norm))
    d_state, d_norm = jax.lax.fori_loop(
      0, end - offset, mini_batch, (_load(d_last), zeros)
    )
    _store(results, (*d_state, *d_norm))

  first = 4 + 3 * parts
  return _call(
    kernel,
    'ttt_reverse',
    (b, h),
    model.warps[2],
    [index, *tokens[1:], *states, *reads, *d_state, *d_tokens],
    norm,
    shapes,
    aliases={first + i: i for i in range(3)},
  )


def _call(kernel, name, grid, warps, arrays, norm, shapes, aliases=None):
  """Runs a kernel with the arrays of one (b, h) per program, norms last."""

  def spec(array):
    rest = array.shape[2:]
    if array.ndim == 1:  # The index of a span.
      return pl.BlockSpec(array.shape, lambda *_: (0,))
    return pl.BlockSpec(
      (None, None, *rest), lambda b, h, *_: (b, h, *(0,) * len(rest))
    )

  kernel.__name__ = name
  norm_spec = pl.BlockSpec((None, norm[0].shape[-1]), lambda b, h, *_: (h, 0))
  return pl.pallas_call(
    kernel,
    grid=grid,
    in_specs=[*map(spec, arrays), norm_spec, norm_spec],
    out_specs=[*map(spec, shapes)],
    out_shape=shapes,
    input_output_aliases=aliases or {},
    compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
    name=name,
  )(*arrays, *norm)


def _group(tiling, g):
  """Returns the first mini-batch of group g and the first after it."""
  start = g * tiling.group
  return start, jnp.minimum(start + tiling.group, tiling.count)


def _split(refs, first, second):
  """Returns refs as three parts, the first two of the sizes given."""
  return refs[:first], refs[first : first + second], refs[first + second :]


def _parts(results, size):
  """Returns (states, reads, the rest)."""
  return _split(results, size, size)


def _load(refs, *index):
  """Returns the refs' values at an index, in float32."""
  return tuple(ref[(*index, ...)].astype(jnp.float32) for ref in refs)


def _store(refs, values, *index):
  """Writes values to refs at an index, in the refs' dtypes."""
  for ref, value in zip(refs, values):
    ref[(*index, ...)] = value.astype(ref.dtype)


def _stored(array, tokens):
  """Returns the dtype of a replayed state: narrow for matrices, as operands."""
  return tokens.dtype if array.ndim == 5 else jnp.dtype(jnp.float32)


def _like(array, steps=None, dtype=None):
  """Returns the shape and dtype of array, or with an axis `steps` after H."""
  b, h, *rest = array.shape
  steps = () if steps is None else (steps,)
  return jax.ShapeDtypeStruct((b, h, *steps, *rest), dtype or array.dtype)
