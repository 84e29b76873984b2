"""Attention within windows as Pallas kernels for TPUs.

The kernels read queries, keys and values where the projection wrote them, a
window and two heads at a time, and normalise and rotate them in vector memory.
"""

from __future__ import annotations

import functools
import math

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.types import Norm
from pallas_kernels.window_attention import tpu_backward
from pallas_kernels.window_attention import tpu_forward
from pallas_kernels.window_attention import tpu_tiling

RESULT = 'window_attention'
LOG_SUMS = 'window_attention_log_sums'


def window_attention(
  qkv: jax.Array,
  q_norm: Norm,
  k_norm: Norm,
  cos: jax.Array,
  sin: jax.Array,
  *,
  heads: int,
  windows: int,
  stride: int,
  epsilon: float,
) -> jax.Array:
  """Implements `api.window_attention`; differentiable in reverse mode only.

  Raises:
    NotImplementedError: a size or a dtype is not supported.
  """
  length, dim = cos.shape
  check_support(dim, stride, qkv.dtype)
  tiling = tpu_tiling.make(
    batch=qkv.shape[0],
    sequence=qkv.shape[1],
    windows=windows,
    stride=stride,
    length=length,
    heads=heads,
    epsilon=epsilon,
    dtype=qkv.dtype,
  )
  table = jnp.concatenate([cos, sin], axis=1).astype(tiling.wide)
  table = jnp.pad(table, ((0, tiling.tokens - length), (0, 0)))
  norms = (*q_norm, *k_norm)
  norms = jnp.stack([jnp.tile(w.astype(tiling.wide), 2) for w in norms])
  out = _attend(tiling, _append_heads(qkv, heads, tiling.heads), norms, table)
  return out[..., : heads * dim]


def _append_heads(qkv, heads, new_heads):
  """Appends empty heads to queries, keys and values."""
  if heads == new_heads:
    return qkv
  width = heads * tpu_tiling.HEAD_DIM
  parts = jnp.split(qkv[..., : 3 * width], 3, axis=2)
  lanes = (new_heads - heads) * tpu_tiling.HEAD_DIM
  padded = [jnp.pad(x, ((0, 0), (0, 0), (0, lanes))) for x in parts]
  return jnp.concatenate(padded, axis=2)


def check_support(head_dim: int, stride: int, dtype: jnp.dtype) -> None:
  """Raises NotImplementedError unless the kernels support the arguments."""
  if head_dim != tpu_tiling.HEAD_DIM:
    raise NotImplementedError(
      f'head dim {head_dim}: the TPU kernels have {tpu_tiling.HEAD_DIM}'
    )
  tile = tpu_tiling.TILE
  if stride % tile:
    raise NotImplementedError(
      f'stride {stride}: the TPU kernels take multiples of {tile}, such as'
      f' {-(-stride // tile) * tile}'
    )
  if dtype == jnp.float16:
    raise NotImplementedError(
      'float16: the TPU kernels take bfloat16 or float32'
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(tiling, qkv, norms, table):
  """Returns [B, T, H D].

  Args:
    tiling: sizes.
    qkv: [B, T, X].
    norms: [4, 128], scale and bias of q and of k, for each head of a pair.
    table: [tokens of a window, 128], cosines and sines.
  """
  return _attend_forward(tiling, qkv, norms, table)[0]


def _attend_forward(tiling, qkv, norms, table):
  out, log_sums = tpu_forward.attend(
    tiling, qkv, norms, table, are_scores_bounded(tiling, norms)
  )
  out = checkpoint_name(out, RESULT)
  log_sums = checkpoint_name(log_sums, LOG_SUMS)
  return _sum_windows(tiling, out, 0.5), (qkv, norms, table, out, log_sums)


def _attend_backward(tiling, residuals, d_out):
  qkv, norms, table, out, log_sums = residuals
  *d_parts, d_norms = tpu_backward.gradients(
    tiling, qkv, norms, table, out, log_sums, d_out
  )
  d_parts = [_sum_windows(tiling, d, 1) for d in d_parts]
  padding = qkv.shape[2] - 3 * d_parts[0].shape[2]
  d_parts.append(jnp.zeros((*qkv.shape[:2], padding), qkv.dtype))
  return jnp.concatenate(d_parts, axis=2), d_norms, None


def _sum_windows(tiling, x, factor):
  """Returns the sequence [B, T, X] of windows [B S, tokens, X].

  Tokens of two windows are the sum of both, times the factor.
  """
  x = x.reshape(tiling.batch, tiling.windows, *x.shape[1:])
  parts, ends = jnp.split(x[:, :, : tiling.length], [tiling.stride], axis=2)
  # The end of a window is the beginning of the next one.
  before = jnp.pad(
    ends[:, :-1],
    ((0, 0), (1, 0), (0, tiling.stride - tiling.overlap), (0, 0)),
  )
  window, token = np.ogrid[: tiling.windows, : tiling.stride]
  is_shared = (window > 0) & (token < tiling.overlap)
  parts = jnp.where(is_shared[..., None], (before + parts) * factor, parts)
  parts = parts.reshape(tiling.batch, -1, x.shape[-1])
  out = jnp.concatenate([parts, ends[:, -1]], axis=1)
  return jnp.pad(out, ((0, 0), (0, tiling.sequence - out.shape[1]), (0, 0)))


_attend.defvjp(_attend_forward, _attend_backward)


def are_scores_bounded(tiling, norms):
  """Returns whether no score can exceed the bound, int32 [1].

  A row of LayerNorm has at most the norm sqrt(D) times the largest scale, plus
  that of the bias, and rotations keep it.
  """
  scales, biases = jnp.abs(norms[0::2]), norms[1::2]
  norm = lambda x: jnp.sqrt(jnp.square(x[:, : LANES // 2]).sum(axis=1))
  longest = math.sqrt(tpu_tiling.HEAD_DIM) * scales.max(axis=1) + norm(biases)
  bound = tiling.query_factor * longest[0] * longest[1]
  return (bound <= tpu_tiling.LARGEST_SCORE).astype(jnp.int32)[None]
