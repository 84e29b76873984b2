"""Softmax attention over one window, by a library: XLA's, or splash on TPUs.

XLA's keeps a window's score matrix (at 63 s 18 030 x 18 030 for each head), so
that is for CPUs and small windows. Splash attention (JAX's Pallas kernel)
never forms it; it wants windows of whole blocks and lower-precision inputs to
be fast.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ('xla', 'splash')
# Tokens of a splash block. Larger ones spend less time on reloading and more
# on the padding of a window; a window smaller than a block is one block.
_BLOCK = 512
_LANES = 128
# Name of what `attend` computed, for checkpoint policies that keep it.
RESULT = 'softmax_attention'


def choose(implementation: str | None, platform: str) -> str:
  """The implementation named, or the best for a platform ('tpu', ...)."""
  if implementation is None:
    return 'splash' if platform == 'tpu' else 'xla'
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
        f'attention implementation {implementation!r}; legal are'
        f' {", ".join(IMPLEMENTATIONS)}'
    )
  return implementation


def padded(length: int, implementation: str) -> int:
  """Tokens that `attend` wants for a window of `length`."""
  if implementation == 'xla':
    return length
  block = _block(length)
  return -(-length // block) * block


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    head_dim: int,
    length: int,
    implementation: str,
) -> jax.Array:
  """Multi-head attention of all tokens to the first `length`.

  Args:
    q: [B, W, H * D], W = `padded(length, implementation)`.
    k: [B, W, H * D].
    v: [B, W, H * D].
    head_dim: D.
    length: tokens that count; what the others get is not defined.
    implementation: of `IMPLEMENTATIONS`.

  Returns:
    [B, W, H * D]; softmax in float32.
  """
  b, w, m = q.shape
  q, k, v = (x.reshape(b, w, -1, head_dim) for x in (q, k, v))
  if implementation == 'xla':
    out = jax.nn.dot_product_attention(q, k, v)
  else:
    out = splash(q, k, v, length)
  return out.reshape(b, w, m)


def _block(length):
  return min(_BLOCK, -(-length // _LANES) * _LANES)


def splash(
    q: jax.Array, k: jax.Array, v: jax.Array, length: int
) -> jax.Array:
  """Splash attention of all queries to the first `length` keys.

  Args:
    q: [B, W, H, D], W = `padded(W, 'splash')`; what queries from `length` on
      get is not defined.
    k: [B, S, H, D], S = `padded(S, 'splash')`.
    v: [B, S, H, D].
    length: keys that count.

  Returns:
    [B, W, H, D].
  """
  # Imported late: only where a TPU program is made.
  from jax.experimental.pallas.ops.tpu import splash_attention as library

  w, h, d = q.shape[1:]
  s = k.shape[1]
  block_q, block_kv = _block(w), _block(s)
  kernel = library.make_splash_mha_single_device(
      library.MultiHeadMask([library.FullMask((w, s))] * h),
      block_sizes=library.BlockSizes(
          block_q=block_q,
          block_kv=block_kv,
          block_q_dkv=block_q,
          block_kv_dkv=block_kv,
          block_q_dq=block_q,
          block_kv_dq=block_kv,
      ),
      residual_checkpoint_name=RESULT,
  )
  segments = None
  if s > length:
    behind = lambda size: (jnp.arange(size) >= length).astype(jnp.int32)
    segments = library.SegmentIds(behind(w), behind(s))
  out = jax.vmap(functools.partial(kernel, segment_ids=segments))(
      *(x.swapaxes(1, 2) for x in (q * d**-0.5, k, v))
  )
  return out.swapaxes(1, 2)
