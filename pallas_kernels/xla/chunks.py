"""Chunked linear recurrences: products within chunks, a scan between them.

    h_0 --step--> h_1 --step--> h_2 ...      one state [B, H, ...] per chunk
        chunk 0       chunk 1

`prepare` computes everything that does not depend on the state, for many chunks
at once, as large products; `step` computes the rest. The backward pass is
autodiff's. If its residuals would exceed a budget, chunks form groups: only the
first state of each group is kept, and the group is recomputed.
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
KEPT_BYTES = 512 * 2**20

Arrays = Mapping[str, jax.Array]


def scan_chunks(
  prepare: Callable[[Arrays], Any],
  step: Callable[[jax.Array, Any], tuple[jax.Array, jax.Array]],
  state: jax.Array,
  tokens: Arrays,
  chunk: int,
  out_dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array]:
  """Runs a recurrence over a sequence.

  Args:
    prepare: function of a mapping, name -> [n, B, H, C, ...] in the state's
      dtype, to a pytree with the same leading axis n.
    step: (state, one entry of the result of `prepare`) -> (next state, out
      [B, H, C, V]).
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
  count = -(-length // chunk)
  row_bytes = sum(
    math.prod(x.shape[3:]) * 4 * math.prod(x.shape[:2]) for x in tokens.values()
  )
  pairs = math.prod(state.shape[:2]) * chunk * chunk * state.dtype.itemsize
  kept = count * (2 * state.nbytes + 4 * pairs + 2 * chunk * row_bytes)
  group = count if kept <= KEPT_BYTES else group_size(count)
  groups = -(-count // group)

  def cut(x):
    fill = groups * group * chunk - length
    x = jnp.pad(x, [(0, 0), (0, 0), (0, fill)] + [(0, 0)] * (x.ndim - 3))
    x = x.reshape(*x.shape[:2], groups, group, chunk, *x.shape[3:])
    return jnp.moveaxis(x, (2, 3), (0, 1))

  def run_group(state, taken):
    taken = {name: x.astype(state.dtype) for name, x in taken.items()}

    def visit(state, prepared):
      state, out = step(state, prepared)
      return state, out.astype(out_dtype)

    return jax.lax.scan(visit, state, prepare(taken))

  if groups > 1:
    run_group = jax.checkpoint(run_group, prevent_cse=False)
  state, out = jax.lax.scan(
    run_group, state, {name: cut(x) for name, x in tokens.items()}
  )
  out = jnp.moveaxis(out, (0, 1), (2, 3))
  out = out.reshape(*out.shape[:2], -1, out.shape[-1])
  return out[:, :, :length], state


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
