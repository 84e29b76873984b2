"""Overlapping tiles of frames, joined as diffusers joins them.

Each tile is a video of its own: its norms see the tile alone, so tiles change
the result. Where tiles overlap, the upper or left one fades out over the
overlap. Tiles at the lower and right edge are smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp

from ttt_jax.models.vae import causal3d


@dataclasses.dataclass(frozen=True)
class Tiling:
  """Sizes of the tiles; the defaults are CogVideoX's.

  Attributes:
    height: pixels of a tile, a multiple of the compression.
    width: pixels of a tile.
    overlap_height: share of a tile's height that the next tile covers, too.
    overlap_width: share of its width.
  """

  height: int = 240
  width: int = 360
  overlap_height: float = 1 / 6
  overlap_width: float = 1 / 5

  def __post_init__(self):
    for name in ('overlap_height', 'overlap_width'):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(
          f'{name} {getattr(self, name)} of the tiles is not in [0, 1): use'
          ' for example 0.2'
        )

  def encoding(
    self, config: causal3d.CausalVAEConfig, height: int, width: int
  ) -> TileGrid | None:
    """Tiles of frames of this size; None where one tile holds them."""
    latent = self._latent(config)
    return self._plan((self.height, self.width), latent, height, width)

  def decoding(
    self, config: causal3d.CausalVAEConfig, height: int, width: int
  ) -> TileGrid | None:
    """Tiles of latents of this size; None where one tile holds them."""
    latent = self._latent(config)
    return self._plan(latent, (self.height, self.width), height, width)

  def _latent(self, config):
    side = config.spatial_compression
    if self.height % side or self.width % side:
      raise ValueError(
        f'tiles of {self.height}x{self.width} do not fit the autoencoder:'
        f' both must be multiples of {side}'
      )
    return self.height // side, self.width // side

  def _plan(self, source, result, height, width):
    if height <= source[0] and width <= source[1]:
      return None
    overlaps = self.overlap_height, self.overlap_width
    rows, columns = (
      tuple(range(0, whole, max(1, int(side * (1 - overlap)))))
      for whole, side, overlap in zip((height, width), source, overlaps)
    )
    faded = [int(side * overlap) for side, overlap in zip(result, overlaps)]
    kept = [side - fade for side, fade in zip(result, faded)]
    return TileGrid(rows, columns, *source, *faded, *kept)


@dataclasses.dataclass(frozen=True)
class TileGrid:
  """Where the tiles of frames of one size lie, and how results are joined.

  Attributes:
    rows: where tiles begin, in height.
    columns: where they begin, in width.
    height: of a tile, smaller at the lower edge.
    width: of a tile.
    fade_height: rows of a result over which it fades into the next.
    fade_width: columns of a result over which it fades into the next.
    keep_height: rows of a result that are kept.
    keep_width: columns of a result that are kept.
  """

  rows: tuple[int, ...]
  columns: tuple[int, ...]
  height: int
  width: int
  fade_height: int
  fade_width: int
  keep_height: int
  keep_width: int

  def join(self, tiles: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """Rows of results [B, f, h, w, c] -> the whole."""
    # Tiles may lie on different devices.
    device = next(iter(tiles[0][0].devices()))
    return _join(jax.device_put([list(row) for row in tiles], device), self)


@functools.partial(jax.jit, static_argnums=1)
def _join(tiles: list[list[jax.Array]], plan: TileGrid) -> jax.Array:
  rows = []
  for i, row in enumerate(tiles):
    for j, tile in enumerate(row):
      # What a tile fades in from has been faded itself.
      if i > 0:
        tile = _fade(tiles[i - 1][j], tile, plan.fade_height, 2)
      if j > 0:
        tile = _fade(row[j - 1], tile, plan.fade_width, 3)
      row[j] = tile
    kept = [t[:, :, : plan.keep_height, : plan.keep_width] for t in row]
    rows.append(jnp.concatenate(kept, axis=3))
  return jnp.concatenate(rows, axis=2)


def _fade(a: jax.Array, b: jax.Array, extent: int, axis: int) -> jax.Array:
  """The first of b, faded from the last of a along an axis."""
  extent = min(extent, a.shape[axis], b.shape[axis])
  if extent == 0:
    return b
  shape = [1] * b.ndim
  shape[axis] = extent
  share = (jnp.arange(extent, dtype=b.dtype) / extent).reshape(shape)
  size = a.shape[axis]
  last = jax.lax.slice_in_dim(a, size - extent, size, axis=axis)
  first = jax.lax.slice_in_dim(b, 0, extent, axis=axis)
  rest = jax.lax.slice_in_dim(b, extent, b.shape[axis], axis=axis)
  mixed = last * (1 - share) + first * share
  return jnp.concatenate([mixed, rest], axis=axis)
