"""Softmax attention block by block, with a gradient by hand.

No scores are kept for the gradient, which computes them again from the
logarithms of the sums of exponentials (FlashAttention, arXiv 2205.14135). On a
CPU only the scores of a block of queries exist at a time, and stay in the cache
(Rabe and Staats, arXiv 2112.05682). On other platforms all queries are one
block of batched products.

Alphabet: N batch, H heads, D features per head, T queries, S keys. An entry is
one head of one element of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from pallas_kernels.window_attention.api import LOG_SUMS
from pallas_kernels.window_attention.api import RESULT

# Scores of a block on a CPU, 2 MB in float32. Fewer are as fast on one core,
# but give two cores too little at a time (benchmarks/README.md).
_BLOCK = 2**19

# Arrays of an entry, or of some of its queries.
_Entry = tuple[jax.Array, ...]


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Computes softmax attention of all queries to all keys.

  Args:
    q: Queries [N, T, H, D].
    k: Keys [N, S, H, D].
    v: Values [N, S, H, D].

  Returns:
    [N, T, H, D]; logits and softmax at least in float32.
  """
  n, t, h, d = q.shape
  by_heads = lambda x: x.swapaxes(1, 2).reshape(n * h, x.shape[1], d)
  out = _attend(by_heads(q), by_heads(k), by_heads(v))
  return out.reshape(n, h, t, d).swapaxes(1, 2)


@jax.custom_vjp
def _attend(q, k, v):
  """Maps [entries, T, D] and twice [entries, S, D] to [entries, T, D]."""
  return _forward(q, k, v)[0]


def _forward(q, k, v):
  out, log_sums = _by_entries(_attend_entry, (q,), (k, v))
  # A checkpoint policy that keeps both does not compute them again.
  out = checkpoint_name(out, RESULT)
  log_sums = checkpoint_name(log_sums, LOG_SUMS)
  return out, (q, k, v, out, log_sums)


def _backward(residuals, d_out):
  q, k, v, out, log_sums = residuals
  wide = log_sums.dtype
  # The sum over keys of weights times their gradients.
  means = jnp.sum(d_out.astype(wide) * out.astype(wide), axis=-1)
  d_q, d_k, d_v = _by_entries(
    _entry_gradients, (q, d_out, log_sums, means), (k, v, k.swapaxes(1, 2))
  )
  return d_q, d_k, d_v


_attend.defvjp(_forward, _backward)


def _by_entries(
  function: Callable[[int, _Entry, _Entry], Any], queries: _Entry, keys: _Entry
):
  """Maps a function over entries.

  Args:
    function: Takes the number of blocks, and the arrays of an entry.
    queries: Arrays [entries, T, ...].
    keys: Arrays [entries, S, ...].
  """
  count = -(-queries[0].shape[1] * keys[0].shape[1] // _BLOCK)

  def one_by_one(*arrays):
    return jax.lax.map(lambda entry: function(count, *entry), arrays)

  def at_once(*arrays):
    return jax.vmap(lambda *entry: function(1, *entry))(*arrays)

  return jax.lax.platform_dependent(
    queries, keys, cpu=one_by_one, default=at_once
  )


def _attend_entry(count, queries, keys):
  """Returns results [T, D] and logarithms of the sums of exponentials [T]."""
  k, v = keys
  scale = k.shape[-1] ** -0.5

  def attend_block(carry, block):
    (q,) = block
    logits = _product('td,sd->ts', q, k)
    largest = logits.max(axis=-1)
    weights = jnp.exp((logits - largest[:, None]) * scale)
    sums = weights.sum(axis=-1)
    out = _product('ts,sd->td', weights.astype(v.dtype), v) / sums[:, None]
    log_sums = largest * scale + jnp.log(sums)
    return carry, (out.astype(q.dtype), log_sums)

  return _by_blocks(attend_block, count, (), queries)[1]


def _entry_gradients(count, queries, keys):
  """Returns the gradients of queries [T, D], keys and values [S, D].

  Blocks of scores are [S, T] here, and the keys are there a second time, as
  [D, S]: all products are plain then. XLA takes about four times longer on a
  CPU for the product of a transposed block.
  """
  k, v, transposed_k = keys
  wide, scale = _wide(k), k.shape[-1] ** -0.5

  def block_gradients(carry, block):
    d_k, d_v = carry
    q, d_out, log_sums, means = block
    weights = jnp.exp(_product('sd,td->st', k, q) * scale - log_sums)
    d_v += _product('st,td->sd', weights.astype(v.dtype), d_out)
    d_logits = weights * (_product('sd,td->st', v, d_out) - means)
    d_logits = d_logits.astype(q.dtype)
    d_q = scale * _product('ds,st->dt', transposed_k, d_logits)
    d_k += _product('st,td->sd', d_logits, q)
    return (d_k, d_v), d_q.T.astype(q.dtype)

  zeros = jnp.zeros(k.shape, wide), jnp.zeros(v.shape, wide)
  (d_k, d_v), d_q = _by_blocks(block_gradients, count, zeros, queries)
  return d_q, (scale * d_k).astype(k.dtype), d_v.astype(v.dtype)


def _by_blocks(step, count, carry, queries):
  """Scans over blocks of queries, the last of which may be padded.

  Padded queries have zeros everywhere: their weights are finite, and nothing of
  them reaches a gradient.

  Args:
    step: Maps the carry and arrays [block, ...] to the next carry and results.
    count: Number of blocks.
    carry: Carry of the first block.
    queries: Arrays [T, ...].

  Returns:
    The last carry, and results [T, ...].
  """
  if count == 1:
    return step(carry, queries)
  length = queries[0].shape[0]
  size = -(-length // count)
  count = -(-length // size)

  def cut(x):
    fill = [(0, count * size - length)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, fill).reshape(count, size, *x.shape[1:])

  carry, parts = jax.lax.scan(step, carry, tuple(map(cut, queries)))
  join = lambda x: x.reshape(count * size, *x.shape[2:])[:length]
  return carry, jax.tree.map(join, parts)


def _wide(x):
  return jnp.promote_types(x.dtype, jnp.float32)


def _product(equation, x, y):
  return jnp.einsum(
    equation, x, y, preferred_element_type=_wide(x), optimize=False
  )
