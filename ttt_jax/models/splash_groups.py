"""Splash attention of groups of heads that share the lanes, with its gradient.

The library would keep its result for the backward pass with a copy of every
lane for each head of a group; here the heads stay side by side. It has no
public functions for the two passes, so these are those of the pinned JAX.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from pallas_kernels.window_attention import api as window_attention


def _apart(x: jax.Array, head_dim: int) -> jax.Array:
  """Returns [B, G, heads, W, lanes]: x [B, G, W, lanes], zero elsewhere."""
  lanes = jnp.arange(x.shape[-1]) // head_dim
  heads = range(x.shape[-1] // head_dim)
  return jnp.stack([jnp.where(lanes == i, x, 0) for i in heads], axis=2)


def _joined(x: jax.Array, head_dim: int) -> jax.Array:
  """Inverts `_apart`; drops the values in the lanes of other heads."""
  lanes = jnp.arange(x.shape[-1]) // head_dim
  out = x[:, :, 0]
  for i in range(1, x.shape[2]):
    out = jnp.where(lanes == i, x[:, :, i], out)
  return out


def _by_groups(function: Callable[..., Any]) -> Callable[..., Any]:
  """Maps a function of one group over batch and groups.

  Pallas distributes mapped axes over the cores of a chip; of the library's own
  axes only the heads of the forward pass are distributed.
  """
  return jax.vmap(jax.vmap(function))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend(
  head_dim: int,
  is_named: bool,
  kernel: Callable[..., Any],
  segments: Any,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
) -> jax.Array:
  """Computes attention of groups of heads.

  Args:
    head_dim: Features per head, D.
    is_named: Whether the results have the names of `window_attention`, by which
      a remat policy keeps them.
    kernel: Splash attention of the heads of a group to one head of keys.
    segments: Segments of queries and keys, None without padding.
    q: Queries [B, G, W, lanes], divided by the square root of D.
    k: Keys [B, G, S, lanes].
    v: Values [B, G, S, lanes].

  Returns:
    [B, G, W, lanes].
  """
  return _attend_forward(head_dim, is_named, kernel, segments, q, k, v)[0]


def _attend_forward(head_dim, is_named, kernel, segments, q, k, v):
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as passes,
  )

  options = dict(kernel.kwargs)
  del options['save_residuals']

  def attend_group(q, k, v):
    out, (log_sums,) = passes._splash_attention_forward(
      kernel.fwd_mask_info,
      q,
      k,
      v,
      segments,
      None,
      save_residuals=True,
      **options,
    )
    return out, log_sums

  out, log_sums = _by_groups(attend_group)(_apart(q, head_dim), k, v)
  out = _joined(out, head_dim)
  if is_named:
    out = checkpoint_name(out, window_attention.RESULT)
    log_sums = checkpoint_name(log_sums, window_attention.LOG_SUMS)
  return out, (kernel, segments, q, k, v, out, log_sums)


def _attend_backward(head_dim, is_named, residuals, d_out):
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as passes,
  )

  del is_named
  kernel, segments, q, k, v, out, log_sums = residuals
  options = kernel.kwargs

  def gradients(q, k, v, out, log_sums, d_out):
    return passes._splash_attention_bwd(
      False,
      options['mask_value'],
      options['is_mqa'],
      options['block_sizes'],
      None,
      options['mask_function'],
      options['attn_logits_soft_cap'],
      options['interpret'],
      (
        q,
        k,
        v,
        segments,
        None,
        out,
        log_sums,
        kernel.dq_mask_info,
        kernel.dkv_mask_info,
      ),
      d_out,
    )[3:6]

  # Lanes of other heads in `out` meet zeros in `d_out`.
  number = q.shape[-1] // head_dim
  d_q, d_k, d_v = _by_groups(gradients)(
    _apart(q, head_dim),
    k,
    v,
    jnp.broadcast_to(out[:, :, None], (*out.shape[:2], number, *out.shape[2:])),
    log_sums,
    _apart(d_out, head_dim),
  )
  return None, None, _joined(d_q, head_dim), d_k, d_v


attend.defvjp(_attend_forward, _attend_backward)
