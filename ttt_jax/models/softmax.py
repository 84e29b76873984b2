"""Softmax attention: XLA's, or kernels on TPUs.

XLA's keeps a window's score matrix in memory (at 63 s 18 030 x 18 030 per
head), so it suits CPUs and small windows. Splash attention, JAX's Pallas
kernel, never forms that matrix. It requires windows of complete blocks and is
fast for inputs of low precision. Where each query reaches back over a band of
keys only, neither forms a matrix of all tokens. Self-attention within windows
has kernels of this project (`pallas_kernels.window_attention`).
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.window_attention import api as window_attention
from ttt_jax.models import blockwise_attention
from ttt_jax.models import heads as heads_lib
from ttt_jax.models import splash_groups

IMPLEMENTATIONS = ('xla', 'splash')
# Implementations of self-attention within windows.
WINDOW_IMPLEMENTATIONS = (*IMPLEMENTATIONS, 'pallas_tpu')
# Windows are padded to a multiple of the granule, in tokens; a shorter window
# is one granule.
_GRANULE = 512
# Maximal granules per block of splash attention. Larger blocks have less
# overhead around their products, but do not fit into the vector memory of a v5e
# or v5p. At the 18 432 tokens of a padded window of 480x720 these take half the
# cycles of single granules (forward, v5p; see `launch.planner.attention`).
_QUERIES, _KEYS = 1, 12
_QUERIES_BACKWARD, _KEYS_BACKWARD = 2, 4
# Keys per product within a block.
_KEYS_AT_ONCE = 256
_LANES = 128
# Granules per block of a band: queries and keys.
_BAND_QUERIES, _BAND_KEYS = 2, 4
# Queries per block of a band with XLA, and of the smallest one.
_BAND_BLOCK = 512
_LEAST_BLOCK = 64
# Blocks of a band that are separate operations with XLA. Longer sequences take
# a loop, in which all blocks have as many keys as the last one.
_MOST_UNROLLED = 8
# Attention is computed block by block if a head has at least so many scores,
# and all heads of the batch together have more than so many.
_HEAD_SCORES, _ALL_SCORES = 2**14, 2**20
# Names in checkpoint policies: the result of attention within windows, and the
# logarithms of its sums of exponentials. A backward pass that has both does not
# run the forward kernel again. Attention to a band has no names: as a mixer it
# has two results as large as this one per layer.
RESULT = window_attention.RESULT
LOG_SUMS = window_attention.LOG_SUMS


def choose(implementation: str | None, platform: str) -> str:
  """Returns `implementation`, or the best one of a platform for None."""
  return implementation or ('splash' if platform == 'tpu' else 'xla')


def choose_for_windows(
  implementation: str | None,
  platform: str,
  head_dim: int,
  length: int,
  windows: int,
  stride: int,
  dtype: jnp.dtype,
) -> str:
  """Returns the implementation of self-attention within windows.

  Args:
    implementation: One of `WINDOW_IMPLEMENTATIONS`; None is the best one.
    platform: Platform of the devices, such as 'tpu'.
    head_dim: Features per head, D.
    length: Tokens of a window.
    windows: Number of windows.
    stride: Tokens from the start of one window to that of the next.
    dtype: Dtype of the projections.
  """
  if implementation is None and platform == 'tpu':
    try:
      window_attention.check_support(head_dim, length, windows, stride, dtype)
    except NotImplementedError:
      return 'splash'
    return 'pallas_tpu'
  return choose(implementation, platform)


def padded(length: int, implementation: str) -> int:
  """Returns the padded length that `attend` requires for `length` tokens."""
  if implementation == 'xla':
    return length
  granule = _granule(length)
  return -(-length // granule) * granule


def products(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  mask: jax.typing.ArrayLike | None = None,
) -> jax.Array:
  """Computes softmax attention with two batched matrix products.

  `jax.nn.dot_product_attention` leaves the heads between tokens and features,
  and divides all weights by their sums. XLA on CPU runs this form faster: heads
  are a part of the leading axis, and the results are divided. Many scores
  without a mask are computed block by block.

  Args:
    q: Queries [N, T, H, D].
    k: Keys [N, S, H, D].
    v: Values [N, S, H, D].
    mask: Whether a query attends to a key, bool [T, S]; None is all. Every
      query attends to some key.

  Returns:
    [N, T, H, D]; logits and softmax at least in float32.
  """
  n, t, h, d = q.shape
  scores = t * k.shape[1]
  if mask is None and scores >= _HEAD_SCORES and n * h * scores > _ALL_SCORES:
    return blockwise_attention.attend(q, k, v)
  wide = jnp.promote_types(q.dtype, jnp.float32)
  by_heads = lambda x: x.swapaxes(1, 2).reshape(n * h, x.shape[1], d)
  product = functools.partial(
    jnp.einsum, preferred_element_type=wide, optimize=False
  )
  logits = product('ntd,nsd->nts', by_heads(q), by_heads(k))
  if mask is not None:
    logits = jnp.where(mask, logits, -jnp.inf)
  # Softmax does not depend on the subtracted number.
  largest = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
  weights = jnp.exp((logits - largest) * d**-0.5)
  out = product('nts,nsd->ntd', weights.astype(q.dtype), by_heads(v))
  out = (out / weights.sum(axis=-1, keepdims=True)).astype(q.dtype)
  return out.reshape(n, h, t, d).swapaxes(1, 2)


def attend_back(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  head_dim: int,
  reach: int,
  implementation: str,
) -> jax.Array:
  """Computes multi-head attention of each token to a band before it.

  Args:
    q: Queries [B, T, H * D].
    k: Keys [B, T, H * D].
    v: Values [B, T, H * D].
    head_dim: Features per head, D.
    reach: Keys of a query: its own token and the `reach` - 1 before it.
    implementation: One of `IMPLEMENTATIONS`.

  Returns:
    [B, T, H * D]; softmax in float32.
  """
  b, t, m = q.shape
  if implementation == 'splash':
    unit = _granule(t) * min(_BAND_KEYS, -(-t // _granule(t)))
    fill = ((0, 0), (0, -t % unit), (0, 0))
    q, k, v = (jnp.pad(x, fill) for x in (q, k, v))
    return splash(q, k, v, head_dim, q.shape[1], reach)[:, :t]
  split = lambda x: x.reshape(b, x.shape[1], -1, head_dim)
  if t <= _MOST_UNROLLED * _BAND_BLOCK:
    block = -(-t // (_MOST_UNROLLED * _LEAST_BLOCK)) * _LEAST_BLOCK
    q, k, v = map(split, (q, k, v))
    parts = []
    for start in range(0, t, block):
      queries = np.arange(start, min(start + block, t))[:, None]
      keys = np.arange(max(0, start - reach + 1), queries[-1, 0] + 1)
      mask = (keys <= queries) & (keys > queries - reach)
      cut = lambda x, of: x[:, of[0] : of[-1] + 1]
      # The backward pass computes the scores again.
      attend_block = jax.checkpoint(
        functools.partial(products, mask=mask), prevent_cse=False
      )
      parts.append(
        attend_block(cut(q, queries[:, 0]), cut(k, keys), cut(v, keys))
      )
    return jnp.concatenate(parts, axis=1).reshape(b, t, m)
  block = _BAND_BLOCK
  count = -(-t // block)
  # Blocks before a block of queries that it reaches, in tokens.
  before = min(-(-(reach - 1) // block), count - 1) * block
  # Float32, so that the parts of a key's gradient are summed in it.
  k, v = (
    jnp.pad(
      x.astype(jnp.promote_types(x.dtype, jnp.float32)),
      ((0, 0), (before, count * block - t), (0, 0)),
    )
    for x in (k, v)
  )
  q = jnp.pad(q, ((0, 0), (0, count * block - t), (0, 0)))

  # One block of scores at a time, also in the backward pass.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def attend_loop_block(start):
    queries = start + np.arange(block)[:, None]
    keys = start - before + np.arange(before + block)
    mask = (keys >= 0) & (keys <= queries) & (keys > queries - reach)
    cut = lambda x, size: jax.lax.dynamic_slice_in_dim(x, start, size, 1)
    return products(
      split(cut(q, block)),
      *(split(cut(x, before + block)).astype(q.dtype) for x in (k, v)),
      mask=mask,
    )

  out = jax.lax.map(attend_loop_block, block * jnp.arange(count))
  return out.swapaxes(0, 1).reshape(b, -1, m)[:, :t]


def band_pairs(tokens: int, reach: int) -> float:
  """Returns the pairs of a query and a key that splash attention computes.

  Args:
    tokens: Tokens of the sequence.
    reach: As for `attend_back`.

  Returns:
    Pairs of complete blocks, for one head.
  """
  unit = _granule(tokens)
  queries = min(unit * _BAND_QUERIES, tokens)
  keys = min(unit * _BAND_KEYS, tokens)
  if reach >= tokens:
    return tokens * (tokens + queries + keys) / 2
  return tokens * min(reach + queries + keys, tokens)


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  head_dim: int,
  length: int,
  implementation: str,
) -> jax.Array:
  """Computes multi-head attention of all tokens to the first `length`.

  Args:
    q: Queries [B, W, H * D], W = `padded(length, implementation)`.
    k: Keys [B, W, H * D].
    v: Values [B, W, H * D].
    head_dim: Features per head, D.
    length: Tokens before the padding; results of the padding are undefined.
    implementation: One of `IMPLEMENTATIONS`.

  Returns:
    [B, W, H * D]; softmax in float32.
  """
  if implementation == 'splash':
    return splash(q, k, v, head_dim, length)
  b, w, m = q.shape
  q, k, v = (x.reshape(b, w, -1, head_dim) for x in (q, k, v))
  return products(q, k, v).reshape(b, w, m)


def _granule(length):
  return min(_GRANULE, -(-length // _LANES) * _LANES)


def _block(tokens, most):
  """Returns the tokens per block: a divisor, at most `most` granules."""
  granule = _granule(tokens)
  granules = tokens // granule
  fits = (n for n in range(most, 0, -1) if granules % n == 0)
  return granule * next(fits)


def splash(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  head_dim: int,
  length: int,
  reach: int | None = None,
  interpret: bool = False,
) -> jax.Array:
  """Computes splash attention of all queries to the first `length` keys.

  Heads that together fill the lanes of a tile form a group, as in
  `heads.HeadPacking`. Keys and values of a group stay in place; the queries of
  each head are zero in the lanes of the other heads. A matrix unit multiplies
  128 lanes in the time of 64, and no data moves between lanes.

  Args:
    q: Queries [B, W, H * D], W = `padded(W, 'splash')`; results of queries from
      `length` on are undefined.
    k: Keys [B, S, H * D], S = `padded(S, 'splash')`.
    v: Values [B, S, H * D].
    head_dim: Features per head, D.
    length: Keys before the padding.
    reach: Keys of a query: its own token and the `reach` - 1 before it; None
      has no such limit.
    interpret: Runs the kernels on any backend, slowly.

  Returns:
    [B, W, H * D].
  """
  # Imported here: only programs for TPUs need it.
  from jax.experimental.pallas.ops.tpu import splash_attention as library

  (_, w, m), s = q.shape, k.shape[1]
  heads = heads_lib.HeadPacking(m // head_dim, head_dim)
  if reach is None:
    mask = library.FullMask((w, s))
    keys, keys_backward = _block(s, _KEYS), _block(s, _KEYS_BACKWARD)
    blocks = library.BlockSizes(
      block_q=_block(w, _QUERIES),
      block_kv=keys,
      block_kv_compute=math.gcd(keys, _KEYS_AT_ONCE),
      block_q_dkv=_block(w, _QUERIES_BACKWARD),
      block_kv_dkv=keys_backward,
      block_kv_dkv_compute=math.gcd(keys_backward, _KEYS_AT_ONCE),
      # One kernel for all gradients: five products per pair of blocks
      # instead of seven. Each block of keys writes its part of the
      # queries' gradient, rounded to their dtype.
      use_fused_bwd_kernel=True,
    )
  else:
    mask = library.LocalMask((w, s), (reach - 1, 0), 0)
    queries, keys = _block(w, _BAND_QUERIES), _block(s, _BAND_KEYS)
    at_once = math.gcd(keys, _KEYS_AT_ONCE)
    # A fused kernel would write the queries' gradient once per block of keys.
    blocks = library.BlockSizes(
      block_q=queries,
      block_kv=keys,
      block_kv_compute=at_once,
      block_q_dkv=queries,
      block_kv_dkv=keys,
      block_kv_dkv_compute=at_once,
      block_q_dq=queries,
      block_kv_dq=keys,
    )
  kernel: Callable[..., Any] = library.make_splash_mqa_single_device(
    library.MultiHeadMask([mask] * heads.group),
    block_sizes=blocks,
    interpret=interpret,
  )
  segments = None
  if s > length:
    is_padding = lambda size: (jnp.arange(size) >= length).astype(jnp.int32)
    segments = library.SegmentIds(is_padding(w), is_padding(s))
  out = splash_groups.attend(
    head_dim,
    reach is None,
    kernel,
    segments,
    heads.pack_groups(q * head_dim**-0.5),
    heads.pack_groups(k),
    heads.pack_groups(v),
  )
  return heads.unpack_groups(out)
