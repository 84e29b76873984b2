"""Conversion between the public arrays and the layout of the kernels.

XLA compiles everything here: a reshape or transpose of a sequence disappears
where the caller's tokens are stored as [B, T, H D].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.tiling import Tiling
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens


def to_lanes(x: jax.Array, tiling: Tiling) -> jax.Array:
  """Returns tokens [B, H, T, D] as [B, plan.length, packs 128]."""
  b, h, t, d = x.shape
  x = x.swapaxes(1, 2).reshape(b, t, h * d).astype(tiling.dtype)
  empty = tiling.packs * LANES - h * d
  return jnp.pad(x, ((0, 0), (0, tiling.length - t), (0, empty)))


def pack_tokens(tokens: Tokens, tiling: Tiling) -> Tokens:
  """Returns q, k, v [B, T, packs 128] and eta [B, T, H] of the kernels."""
  *qkv, eta = tokens
  qkv = [to_lanes(array, tiling) for array in qkv]
  return Tokens(*qkv, eta=step_sizes(eta, tiling))


def pack_norm(norm: Norm, tiling: Tiling) -> Norm:
  """Returns parameters [H, D] as [1, packs 128] of the wide dtype."""
  return Norm(*(pack_lanes(x.astype(tiling.wide), tiling) for x in norm))


def from_lanes(x: jax.Array, length: int, tiling: Tiling) -> jax.Array:
  """Returns [B, plan.length, packs 128] as [B, H, T, D], T = `length`."""
  h, d = tiling.heads, tiling.head_dim
  x = x[:, :length, : h * d].reshape(x.shape[0], length, h, d)
  return x.swapaxes(1, 2)


def step_sizes(eta: jax.Array, tiling: Tiling) -> jax.Array:
  """Returns eta [B, H, T] as [B, plan.length, H] of the wide dtype."""
  eta = eta.swapaxes(1, 2).astype(tiling.wide)
  return jnp.pad(eta, ((0, 0), (0, tiling.length - eta.shape[1]), (0, 0)))


def pack_rows(x: jax.Array, tiling: Tiling) -> jax.Array:
  """Returns weights [..., H, D, K] as [..., packs, 128, K]."""
  x = _all_heads(x, 3, tiling)
  return x.reshape(*x.shape[:-3], tiling.packs, LANES, x.shape[-1])


def unpack_rows(x: jax.Array, tiling: Tiling) -> jax.Array:
  """Returns [..., packs, 128, K] as [..., H, D, K]."""
  *lead, packs, _, k = x.shape
  x = x.reshape(*lead, packs * tiling.packing.heads, tiling.head_dim, k)
  return x[..., : tiling.heads, :, :]


def pack_hidden(x: jax.Array, tiling: Tiling) -> jax.Array:
  """Returns a bias [..., H, K] as [..., packs, R, K]."""
  x = _all_heads(x, 2, tiling)
  return x.reshape(
    *x.shape[:-2], tiling.packs, tiling.packing.heads, x.shape[-1]
  )


def unpack_hidden(x: jax.Array, tiling: Tiling) -> jax.Array:
  """Returns [..., packs, R, K] as [..., H, K]."""
  *lead, packs, heads, k = x.shape
  return x.reshape(*lead, packs * heads, k)[..., : tiling.heads, :]


def pack_lanes(x: jax.Array, tiling: Tiling) -> jax.Array:
  """Returns a bias or scale [..., H, D] as [..., 1, packs 128]."""
  x = _all_heads(x, 2, tiling)
  return x.reshape(*x.shape[:-2], 1, tiling.packs * LANES)


def unpack_lanes(x: jax.Array, tiling: Tiling) -> jax.Array:
  """Returns [..., 1, packs 128] as [..., H, D]."""
  x = x.reshape(*x.shape[:-2], -1, tiling.head_dim)
  return x[..., : tiling.heads, :]


def pack_blocks(x: jax.Array, tiling: Tiling) -> jax.Array:
  """Returns [..., H, D, D] as [..., packs, 128, 128], zero between heads."""
  heads = tiling.packing.heads
  x = _all_heads(x, 3, tiling)
  x = x.reshape(*x.shape[:-3], tiling.packs, heads, *x.shape[-2:])
  x = x[..., :, None, :] * jnp.eye(heads)[:, None, :, None].astype(x.dtype)
  return x.reshape(*x.shape[:-4], LANES, LANES)


def unpack_blocks(x: jax.Array, tiling: Tiling) -> jax.Array:
  """Returns the blocks of [..., packs, 128, 128] as [..., H, D, D]."""
  heads, d = tiling.packing.heads, tiling.head_dim
  x = x.reshape(*x.shape[:-2], heads, d, heads, d)
  x = jnp.stack([x[..., r, :, r, :] for r in range(heads)], axis=-3)
  return x.reshape(*x.shape[:-4], -1, d, d)[..., : tiling.heads, :, :]


def step_size_gradient(x: jax.Array, tiling: Tiling) -> jax.Array:
  """Returns [B, blocks of packs, T, P R] as the gradient of eta [B, T, H]."""
  b, _, t, _ = x.shape
  return jnp.moveaxis(x, 1, 2).reshape(b, t, -1)[..., : tiling.heads]


def _all_heads(x, rank, tiling):
  """Appends the empty heads to the head axis, `rank` from the end."""
  padding = [(0, 0)] * x.ndim
  padding[-rank] = (0, tiling.packs * tiling.packing.heads - tiling.heads)
  return jnp.pad(x, padding)
