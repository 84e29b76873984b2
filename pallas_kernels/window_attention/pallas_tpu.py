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

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.types import Norm
from pallas_kernels.window_attention import tpu_backward
from pallas_kernels.window_attention import tpu_forward
from pallas_kernels.window_attention import tpu_sums
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
  check_support(dim, length, windows, stride, qkv.dtype)
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


def check_support(
  head_dim: int, length: int, windows: int, stride: int, dtype: jnp.dtype
) -> None:
  """Raises NotImplementedError unless the kernels support the arguments.

  Args:
    head_dim: features per head, D.
    length: tokens of a window, W.
    windows: number of windows.
    stride: tokens from the start of one window to that of the next.
    dtype: dtype of the tokens.
  """
  if head_dim != tpu_tiling.HEAD_DIM:
    raise NotImplementedError(
      f'head dim {head_dim}: the TPU kernels have {tpu_tiling.HEAD_DIM}'
    )
  tile = tpu_tiling.TILE
  if windows > 1 and stride % tile:
    raise NotImplementedError(
      f'stride {stride}: the TPU kernels take multiples of {tile}, such as'
      f' {-(-stride // tile) * tile}'
    )
  if dtype == jnp.float16:
    raise NotImplementedError(
      'float16: the TPU kernels take bfloat16 or float32'
    )
  longest = tpu_tiling.longest_window(dtype)
  if tpu_tiling.padded(length) > longest:
    raise NotImplementedError(
      f'windows of {length} tokens of {jnp.dtype(dtype)}: the vector memory has'
      f' room for {longest}'
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
  mean = tpu_sums.sum_windows(tiling, [out], out.shape[2], 0.5)
  return mean, (qkv, norms, table, out, log_sums)


def _attend_backward(tiling, residuals, d_out):
  qkv, norms, table, out, log_sums = residuals
  *d_parts, d_norms = tpu_backward.gradients(
    tiling, qkv, norms, table, out, log_sums, d_out
  )
  d_qkv = tpu_sums.sum_windows(tiling, d_parts, qkv.shape[2], 1.0)
  return d_qkv, d_norms, None


_attend.defvjp(_attend_forward, _attend_backward)


def are_scores_bounded(
  tiling: tpu_tiling.Tiling, norms: jax.Array
) -> jax.Array:
  """Returns whether no score can exceed the bound, int32 [1].

  A row of LayerNorm has at most the norm sqrt(D) times the largest scale, plus
  that of the bias, and rotations keep it.
  """
  scales, biases = jnp.abs(norms[0::2]), norms[1::2]
  norm = lambda x: jnp.sqrt(jnp.square(x[:, : LANES // 2]).sum(axis=1))
  longest = math.sqrt(tpu_tiling.HEAD_DIM) * scales.max(axis=1) + norm(biases)
  bound = tiling.query_factor * longest[0] * longest[1]
  return (bound <= tpu_tiling.LARGEST_SCORE).astype(jnp.int32)[None]
