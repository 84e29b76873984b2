"""The three kernels that walk over a sequence on a GPU.

    forward   one program per (b, h) walks n = 0 .. N-1 with the state in
              registers; writes out and, for training, every G-th state.
    replay    one program per (b, h, group), all groups of a span at once:
              walks from the checkpoint again, writes each state and what the
              reads add to its cotangent, and finishes d_q.
    reverse   one program per (b, h) walks the span backwards with the
              cotangent of the state in registers; writes d_k, d_v, d_eta.

Nothing in the gradient of the reads depends on the cotangent that comes from
later mini-batches: that half of the work is in `replay`, which fills the whole
GPU. `forward` and `reverse` fill only B x H of its multiprocessors (48 of an
H100's 132 in the paper's model with batch 1).

Tokens are read where they lie, [B, H, T, D], the ragged end under a mask with
zeros: eta = 0 leaves the state as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

from pallas_kernels.gpu.tiles import always_true
from pallas_kernels.gpu.tiles import load_rows
from pallas_kernels.gpu.tiles import store_rows

State = tuple[jax.Array, ...]
Norm = tuple[jax.Array, jax.Array]


class Inner(NamedTuple):
  """An inner model's equations on the tiles of one head and mini-batch.

  State: arrays of one head in float32; the cotangents of a state too. Weights
  may come narrowed to the dtype of the tokens. Norm: (scale [D], bias [D]).
  `always` is true, for `tiles.settle`.

  Attributes:
    step: (state, k, v, eta, norm, always) -> next state.
    read: (state, q, norm, always) -> out.
    read_backward: (state, q, norm, d_out, always) -> (d_q, d_state, d_norm).
    step_backward: (state, k, v, eta, norm, d_next, always) -> (d_state, d_k,
      d_v, d_eta, d_norm).
    warps: warps of a program in (forward, replay, reverse).
  """

  step: Callable[..., State]
  read: Callable[..., jax.Array]
  read_backward: Callable[..., tuple[jax.Array, State, Norm]]
  step_backward: Callable[..., tuple[Any, ...]]
  warps: tuple[int, int, int]


def forward(inner, plan, tokens, state, norm, *, checkpoints):
  """Returns [out, *last state, *checkpoints [B, H, groups, ...] if wanted]."""
  q = tokens[0]
  parts = len(state)
  shapes = [_like(q), *map(_like, state)]
  if checkpoints:
    shapes += [_like(x, plan.groups) for x in state]

  def kernel(*refs):
    refs, out, saved = _split(refs, len(refs) - len(shapes), 1)
    tokens, first, norm = _split(refs, 4, parts)
    norm = _load(norm)
    always = always_true()

    def mini_batch(n, state):
      q, k, v, eta = (load_rows(x, n, plan.mini_batch) for x in tokens)
      state = tuple(
        inner.step(state, k, v, eta.astype(jnp.float32), norm, always)
      )
      out_rows = inner.read(state, q, norm, always)
      store_rows(out[0], n, plan.mini_batch, out_rows)
      return state

    def group(g, state):
      if checkpoints:
        _store(saved[parts:], state, g)
      return jax.lax.fori_loop(*_group(plan, g), mini_batch, state)

    last = jax.lax.fori_loop(0, plan.groups, group, _load(first))
    _store(saved[:parts], last)

  return _call(
    kernel,
    'ttt_forward',
    q.shape[:2],
    inner.warps[0],
    [*tokens, *state],
    norm,
    shapes,
  )


def replay(inner, plan, index, tokens, norm, checkpoints, d_out, d_q):
  """Returns [d_q, *states, *their cotangents by the reads, *d_norm].

  States and cotangents are [B, H, S * G, ...], weights in the tokens' dtype;
  d_norm is [B, H, S, D]. d_q is the argument with the span's rows written.
  """
  q = tokens[0]
  per_state = [
    _like(x[:, :, 0], plan.span * plan.group, _stored(x, q))
    for x in checkpoints
  ]
  shapes = [_like(d_q), *per_state, *per_state]
  shapes += [
    jax.ShapeDtypeStruct((*q.shape[:2], plan.span, q.shape[-1]), jnp.float32)
  ] * 2
  parts = len(checkpoints)

  def kernel(*refs):
    refs, d_q, results = _split(refs, len(refs) - len(shapes), 1)
    (index, *tokens), saved, rest = _split(refs, 5, parts)
    d_out, _, *norm = rest
    states, reads, d_norms = _parts(results, parts)
    norm = _load(norm)
    always = always_true()
    span_first = index[0] * plan.span
    place = pl.program_id(2)
    g = span_first + place
    offset = span_first * plan.group

    def mini_batch(n, carry):
      state, d_norm = carry
      _store(states, state, n - offset)
      q, k, v, eta = (load_rows(x, n, plan.mini_batch) for x in tokens)
      state = tuple(
        inner.step(state, k, v, eta.astype(jnp.float32), norm, always)
      )
      d_q_rows, d_read, d_norm_here = inner.read_backward(
        state, q, norm, load_rows(d_out, n, plan.mini_batch), always
      )
      store_rows(d_q[0], n, plan.mini_batch, d_q_rows)
      _store(reads, d_read, n - offset)
      return state, tuple(map(jnp.add, d_norm, d_norm_here))

    state = _load(saved, jnp.minimum(g, plan.groups - 1))
    zeros = tuple(map(jnp.zeros_like, norm))
    _, d_norm = jax.lax.fori_loop(*_group(plan, g), mini_batch, (state, zeros))
    _store(d_norms, d_norm, place)

  return _call(
    kernel,
    'ttt_replay',
    (*q.shape[:2], plan.span),
    inner.warps[1],
    [index, *tokens, *checkpoints, d_out, d_q],
    norm,
    shapes,
    aliases={6 + parts: 0},
  )


def reverse(inner, plan, index, tokens, norm, states, reads, d_state, d_tokens):
  """Returns [d_k, d_v, d_eta, *d_state, *d_norm [B, H, D]].

  The first three are the arguments with the span's rows written.
  """
  k = tokens[1]
  b, h, _, d = k.shape
  parts = len(states)
  shapes = [*map(_like, d_tokens), *map(_like, d_state)]
  shapes += [jax.ShapeDtypeStruct((b, h, d), jnp.float32)] * 2
  size = plan.span * plan.group

  def kernel(*refs):
    refs, d_rows, results = _split(refs, len(refs) - len(shapes), 3)
    (index, *tokens), states, refs = _split(refs, 4, parts)
    reads, d_last, refs = _split(refs, parts, parts)
    norm = _load(refs[3:])
    always = always_true()
    offset = index[0] * size
    end = jnp.minimum(offset + size, plan.count)

    def mini_batch(i, carry):
      d_state, d_norm = carry
      n = end - 1 - i
      state = tuple(x[n - offset] for x in states)
      d_state = tuple(map(jnp.add, d_state, _load(reads, n - offset)))
      k, v, eta = (load_rows(x, n, plan.mini_batch) for x in tokens)
      d_state, *rows, d_norm_here = inner.step_backward(
        state, k, v, eta.astype(jnp.float32), norm, d_state, always
      )
      for ref, values in zip(d_rows, rows):
        store_rows(ref, n, plan.mini_batch, values)
      return tuple(d_state), tuple(map(jnp.add, d_norm, d_norm_here))

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
    inner.warps[2],
    [index, *tokens[1:], *states, *reads, *d_state, *d_tokens],
    norm,
    shapes,
    aliases={first + i: i for i in range(3)},
  )


def _call(kernel, name, grid, warps, arrays, norm, shapes, aliases=None):
  """Runs a kernel on the arrays of one (b, h) per program, norms last."""

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


def _group(plan, g):
  """Returns the first mini-batch of group g and the first after it."""
  start = g * plan.group
  return start, jnp.minimum(start + plan.group, plan.count)


def _split(refs, first, second):
  """Returns refs as three parts, the first two of the sizes given."""
  return refs[:first], refs[first : first + second], refs[first + second :]


def _parts(results, size):
  """Returns (states, reads, the rest)."""
  return _split(results, size, size)


def _load(refs, *index):
  """Returns what refs hold at an index, in float32."""
  return tuple(ref[(*index, ...)].astype(jnp.float32) for ref in refs)


def _store(refs, values, *index):
  """Writes values to refs at an index, in the refs' dtypes."""
  for ref, value in zip(refs, values):
    ref[(*index, ...)] = value.astype(ref.dtype)


def _stored(array, tokens):
  """Returns the dtype of a replayed state: matrices are narrow, as operands."""
  return tokens.dtype if array.ndim == 5 else jnp.dtype(jnp.float32)


def _like(array, steps=None, dtype=None):
  """Returns array's shape and dtype, perhaps with an axis of steps after H."""
  b, h, *rest = array.shape
  steps = () if steps is None else (steps,)
  return jax.ShapeDtypeStruct((b, h, *steps, *rest), dtype or array.dtype)
