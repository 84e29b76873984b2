"""From the public arrays to what the kernels read, and back.

Everything here is XLA's: a reshape or transpose of a sequence disappears where
the caller had its tokens in [B, T, H D] to begin with.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.plan import Plan


def to_lanes(x: jax.Array, plan: Plan) -> jax.Array:
  """Returns tokens [B, H, T, D] as [B, plan.length, packs 128]."""
  b, h, t, d = x.shape
  x = x.swapaxes(1, 2).reshape(b, t, h * d).astype(plan.dtype)
  empty = plan.packs * LANES - h * d
  return jnp.pad(x, ((0, 0), (0, plan.length - t), (0, empty)))


def from_lanes(x: jax.Array, length: int, plan: Plan) -> jax.Array:
  """Returns [B, plan.length, packs 128] as [B, H, T, D], T = `length`."""
  h, d = plan.heads, plan.head_dim
  x = x[:, :length, : h * d].reshape(x.shape[0], length, h, d)
  return x.swapaxes(1, 2)


def rates(eta: jax.Array, plan: Plan) -> jax.Array:
  """Returns eta [B, H, T] as [B, plan.length, H] of the wide dtype."""
  eta = eta.swapaxes(1, 2).astype(plan.wide)
  return jnp.pad(eta, ((0, 0), (0, plan.length - eta.shape[1]), (0, 0)))


def pack_rows(x: jax.Array, plan: Plan) -> jax.Array:
  """Returns weights [..., H, D, K] as [..., packs, 128, K]."""
  x = _all_heads(x, 3, plan)
  return x.reshape(*x.shape[:-3], plan.packs, LANES, x.shape[-1])


def unpack_rows(x: jax.Array, plan: Plan) -> jax.Array:
  """Returns [..., packs, 128, K] as [..., H, D, K]."""
  *lead, packs, _, k = x.shape
  x = x.reshape(*lead, packs * plan.packing.heads, plan.head_dim, k)
  return x[..., : plan.heads, :, :]


def pack_hidden(x: jax.Array, plan: Plan) -> jax.Array:
  """Returns a bias [..., H, K] as [..., packs, R, K]."""
  x = _all_heads(x, 2, plan)
  return x.reshape(*x.shape[:-2], plan.packs, plan.packing.heads, x.shape[-1])


def unpack_hidden(x: jax.Array, plan: Plan) -> jax.Array:
  """Returns [..., packs, R, K] as [..., H, K]."""
  *lead, packs, heads, k = x.shape
  return x.reshape(*lead, packs * heads, k)[..., : plan.heads, :]


def pack_lanes(x: jax.Array, plan: Plan) -> jax.Array:
  """Returns a bias or scale [..., H, D] as [..., 1, packs 128]."""
  x = _all_heads(x, 2, plan)
  return x.reshape(*x.shape[:-2], 1, plan.packs * LANES)


def unpack_lanes(x: jax.Array, plan: Plan) -> jax.Array:
  """Returns [..., 1, packs 128] as [..., H, D]."""
  x = x.reshape(*x.shape[:-2], -1, plan.head_dim)
  return x[..., : plan.heads, :]


def pack_blocks(x: jax.Array, plan: Plan) -> jax.Array:
  """Returns [..., H, D, D] as [..., packs, 128, 128], zero between heads."""
  heads = plan.packing.heads
  x = _all_heads(x, 3, plan)
  x = x.reshape(*x.shape[:-3], plan.packs, heads, *x.shape[-2:])
  x = x[..., :, None, :] * jnp.eye(heads)[:, None, :, None].astype(x.dtype)
  return x.reshape(*x.shape[:-4], LANES, LANES)


def unpack_blocks(x: jax.Array, plan: Plan) -> jax.Array:
  """Returns the blocks of [..., packs, 128, 128] as [..., H, D, D]."""
  heads, d = plan.packing.heads, plan.head_dim
  x = x.reshape(*x.shape[:-2], heads, d, heads, d)
  x = jnp.stack([x[..., r, :, r, :] for r in range(heads)], axis=-3)
  return x.reshape(*x.shape[:-4], -1, d, d)[..., : plan.heads, :, :]


def rate_gradient(x: jax.Array, plan: Plan) -> jax.Array:
  """Returns [B, groups of packs, T, P R] as the gradient of eta [B, T, H]."""
  b, _, t, _ = x.shape
  return jnp.moveaxis(x, 1, 2).reshape(b, t, -1)[..., : plan.heads]


def _all_heads(x, rank, plan):
  """Appends the empty heads to the head axis, `rank` from the end."""
  padding = [(0, 0)] * x.ndim
  padding[-rank] = (0, plan.packs * plan.packing.heads - plan.heads)
  return jnp.pad(x, padding)
