"""Chunked linear recurrences: products within chunks, a scan between them.

    h_0 ---> h_1 ---> h_2 ...      one state [B, H, ...] per chunk
      chunk 0  chunk 1

`prepare` computes everything that does not depend on the state, for many chunks
at once, as large products; `advance` computes the states, one after another,
with as little as possible; `read` computes the outputs from them, again for
many chunks at once. If the residuals of the backward pass would exceed a
budget, chunks form groups: only the first state of each group is kept, and the
group is recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.xla.mini_batches import group_size

# Most bytes of residuals that a backward pass keeps without groups of chunks.
# The weights before each chunk of large-chunk TTT in the 5B model need 1.13 GiB
# at 63 seconds on four devices with its largest preset.
KEPT_BYTES = 1280 * 2**20
# The same where a group is cheap to compute again. A CPU then reads it from the
# caches: at 8192 tokens on one core, forward and backward of `gated_delta_rule`
# and `ssd` take 1.6 times as long with 512 MB.
CACHED_BYTES = 64 * 2**20

Arrays = Mapping[str, jax.Array]


def scan_chunks(
  prepare: Callable[[Arrays], Any],
  advance: Callable[[jax.Array, Any], tuple[jax.Array, jax.Array]],
  read: Callable[[jax.Array, Any], jax.Array],
  state: jax.Array,
  tokens: Arrays,
  chunk: int,
  out_dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array]:
  """Runs a recurrence over a sequence.

  Args:
    prepare: function of a mapping, name -> [n, B, H, C, ...] in the state's
      dtype, to a pytree with the same leading axis n.
    advance: (state, result of `prepare`) -> (last state, states before each
      chunk [n, B, H, ...]).
    read: (states before each chunk, result of `prepare`) -> out
      [n, B, H, C, V].
    state: initial state [B, H, ...], in the dtype to compute in.
    tokens: name -> [B, H, T, ...]. Zeros after the end must not change the
      state. They may be narrower than the state: one group at a time is
      widened, so that the complete sequence never is.
    chunk: C, tokens per chunk.
    out_dtype: dtype of the result.

  Returns:
    (out [B, H, T, V], last state).
  """
  length = next(iter(tokens.values())).shape[2]
  chunk = min(chunk, length)
  row_bytes = sum(
    math.prod(x.shape[3:]) * 4 * math.prod(x.shape[:2]) for x in tokens.values()
  )
  pairs = math.prod(state.shape[:2]) * chunk * chunk * state.dtype.itemsize

  def widen(taken):
    return prepare({name: x.astype(state.dtype) for name, x in taken.items()})

  def run_group(state, taken):
    prepared = widen(taken)
    last, states = advance(state, prepared)
    return last, read(states, prepared).astype(out_dtype)

  out, state = in_groups(
    run_group,
    state,
    {name: cut(x, chunk) for name, x in tokens.items()},
    kept_bytes=3 * state.nbytes + 4 * pairs + 2 * chunk * row_bytes,
    most_bytes=CACHED_BYTES,
  )
  return join(out, length), state


def scan_groups(
  prepare: Callable[[Any], Any],
  step: Callable[[Any, Any], tuple[Any, jax.Array]],
  state: Any,
  chunks: Any,
  kept_bytes: int,
) -> tuple[jax.Array, Any]:
  """Runs a recurrence over chunks, in groups if memory requires it.

  Args:
    prepare: function of some chunks, [n, ...], to a pytree with the same
      leading axis n.
    step: (state, one entry of the result of `prepare`) -> (next state, out).
    state: pytree, the initial state.
    chunks: pytree of [N, ...]. Zeros after the end must not change the state.
    kept_bytes: residuals of one chunk that a backward pass keeps.

  Returns:
    (out of each step [N, ...], last state).
  """
  return in_groups(
    lambda state, taken: jax.lax.scan(step, state, prepare(taken)),
    state,
    chunks,
    kept_bytes,
  )


def in_groups(
  run_group: Callable[[Any, Any], tuple[Any, jax.Array]],
  state: Any,
  chunks: Any,
  kept_bytes: int,
  most_bytes: int | None = None,
) -> tuple[jax.Array, Any]:
  """Runs a recurrence over groups of chunks.

  Args:
    run_group: function (state, some chunks [n, ...]) -> (next state, out [n,
      ...]).
    state: as for `scan_groups`.
    chunks: as for `scan_groups`.
    kept_bytes: as for `scan_groups`.
    most_bytes: most residuals of all chunks without groups; None is
      `KEPT_BYTES`.

  Returns:
    As `scan_groups`.
  """
  count = jax.tree.leaves(chunks)[0].shape[0]
  most_bytes = KEPT_BYTES if most_bytes is None else most_bytes
  if count * kept_bytes <= most_bytes:
    return run_group(state, chunks)[::-1]
  group = group_size(count)
  groups = -(-count // group)

  def split(x):
    fill = groups * group - count
    x = jnp.pad(x, [(0, fill)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(groups, group, *x.shape[1:])

  run_group = jax.checkpoint(run_group, prevent_cse=False)
  state, out = jax.lax.scan(run_group, state, jax.tree.map(split, chunks))
  return out.reshape(-1, *out.shape[2:])[:count], state


def cut(x: jax.Array, chunk: int) -> jax.Array:
  """Cuts [B, H, T, ...] into [N, B, H, C, ...], with zeros after the end."""
  fill = -x.shape[2] % chunk
  x = jnp.pad(x, [(0, 0), (0, 0), (0, fill)] + [(0, 0)] * (x.ndim - 3))
  return jnp.moveaxis(x.reshape(*x.shape[:2], -1, chunk, *x.shape[3:]), 2, 0)


def join(chunks: jax.Array, length: int) -> jax.Array:
  """Inverts `cut` for a sequence of `length` tokens."""
  x = jnp.moveaxis(chunks, 0, 2)
  return x.reshape(*x.shape[:2], -1, *x.shape[4:])[:, :, :length]


def segment_sums(log_decay: jax.Array) -> jax.Array:
  """Returns [..., C, C]: at (i, j) the sum over j < m <= i, -inf if j > i.

  Summed directly, not as a difference of cumulative sums, which lose the digits
  of weak decays after a strong one.
  """
  c = log_decay.shape[-1]
  lower = np.tri(c, dtype=bool)
  terms = jnp.where(np.tri(c, k=-1, dtype=bool), log_decay[..., None], 0)
  sums = jnp.matmul(
    lower.astype(log_decay.dtype), terms, precision=jax.lax.Precision.HIGHEST
  )
  return jnp.where(lower, sums, -jnp.inf)
