"""Softmax attention over one window, by a library: XLA's, or splash on TPUs.

XLA's keeps a window's score matrix (at 63 s 18 030 x 18 030 for each head), so
that is for CPUs and small windows. Splash attention (JAX's Pallas kernel)
never forms it; it wants windows of whole blocks and lower-precision inputs to
be fast.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from ttt_jax.models import heads as heads_lib

IMPLEMENTATIONS = ('xla', 'splash')
# Windows are padded to whole granules, in tokens; a smaller one is one granule.
_GRANULE = 512
# Granules of splash's blocks at most. Larger blocks pay less often for what
# surrounds their products; still larger ones find no room in the vector memory
# of a v5e or v5p. At the 18 432 tokens of a padded window of 480x720 these take
# half the cycles of single granules (forward, v5p; see `launch.planner.attention`).
_QUERIES, _KEYS = 1, 12
_QUERIES_BACKWARD, _KEYS_BACKWARD = 2, 4
# Keys that a block takes at once.
_KEYS_AT_ONCE = 256
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
  granule = _granule(length)
  return -(-length // granule) * granule


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
  if implementation == 'splash':
    return splash(q, k, v, head_dim, length)
  b, w, m = q.shape
  q, k, v = (x.reshape(b, w, -1, head_dim) for x in (q, k, v))
  return jax.nn.dot_product_attention(q, k, v).reshape(b, w, m)


def _granule(length):
  return min(_GRANULE, -(-length // _LANES) * _LANES)


def _block(tokens, most):
  """Tokens of a block: at most that many granules of `tokens`, whole blocks."""
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
  interpret: bool = False,
) -> jax.Array:
  """Splash attention of all queries to the first `length` keys.

  Heads that fill the lanes of a tile together go together, as `heads.Heads`
  groups them: they stay where they are in keys and values, and each has queries
  that are zero in the lanes of the others. A matrix unit multiplies 128 lanes
  in the time of 64, and nothing has to be moved from lane to lane.

  Args:
    q: [B, W, H * D], W = `padded(W, 'splash')`; what queries from `length` on
      get is not defined.
    k: [B, S, H * D], S = `padded(S, 'splash')`.
    v: [B, S, H * D].
    head_dim: D.
    length: keys that count.
    interpret: runs the kernels on any backend, slowly.

  Returns:
    [B, W, H * D].
  """
  # Imported late: only where a TPU program is made.
  from jax.experimental.pallas.ops.tpu import splash_attention as library

  (_, w, m), s = q.shape, k.shape[1]
  heads = heads_lib.Heads(m // head_dim, head_dim)
  # The lanes of each head of a group.
  own = [jnp.arange(heads.width) // head_dim == i for i in range(heads.group)]
  keys, keys_backward = _block(s, _KEYS), _block(s, _KEYS_BACKWARD)
  kernel = library.make_splash_mqa_single_device(
    library.MultiHeadMask([library.FullMask((w, s))] * heads.group),
    block_sizes=library.BlockSizes(
      block_q=_block(w, _QUERIES),
      block_kv=keys,
      block_kv_compute=math.gcd(keys, _KEYS_AT_ONCE),
      block_q_dkv=_block(w, _QUERIES_BACKWARD),
      block_kv_dkv=keys_backward,
      block_kv_dkv_compute=math.gcd(keys_backward, _KEYS_AT_ONCE),
      # One kernel for all gradients: five products a pair of blocks
      # instead of seven. Each block of keys leaves its part of the
      # queries' gradient, rounded to their dtype.
      use_fused_bwd_kernel=True,
    ),
    residual_checkpoint_name=RESULT,
    interpret=interpret,
  )
  segments = None
  if s > length:
    behind = lambda size: (jnp.arange(size) >= length).astype(jnp.int32)
    segments = library.SegmentIds(behind(w), behind(s))
  # A group at a time, mapped: of the axes of its grid the library shares only
  # the forward pass's heads among the cores of a chip, Pallas all that it maps.
  attend_ = jax.vmap(jax.vmap(functools.partial(kernel, segment_ids=segments)))
  q = heads.groups(q * head_dim**-0.5)
  q = jnp.stack([jnp.where(lanes, q, 0) for lanes in own], axis=2)
  each = attend_(q, heads.groups(k), heads.groups(v))
  out = each[:, :, 0]
  for i, lanes in enumerate(own[1:], 1):
    out = jnp.where(lanes, each[:, :, i], out)
  return heads.ungroup(out)
