"""Overlapping tiles of frames, joined as in diffusers.

Each tile is processed as a separate video. Its norms take statistics over the
tile only, so tiles change the result. Where tiles overlap, the upper or left
one fades into the other. Tiles at the lower and right edges are smaller.
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
  """Sizes of the tiles; defaults are CogVideoX's.

  Attributes:
    height: Pixel rows of a tile, a multiple of the spatial compression.
    width: Pixel columns of a tile, a multiple of the same.
    overlap_height: Share of a tile's height that the next tile also covers.
    overlap_width: Share of a tile's width that the next tile also covers.
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
    """Returns the tiles of frames of this size; None if one tile suffices."""
    latent = self._latent(config)
    return self._plan((self.height, self.width), latent, height, width)

  def decoding(
    self, config: causal3d.CausalVAEConfig, height: int, width: int
  ) -> TileGrid | None:
    """Returns the tiles of latents of this size; None if one tile suffices."""
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
      tuple(range(0, total, max(1, int(side * (1 - overlap)))))
      for total, side, overlap in zip((height, width), source, overlaps)
    )
    fade_height, fade_width = (
      int(side * overlap) for side, overlap in zip(result, overlaps)
    )
    return TileGrid(
      rows=rows,
      columns=columns,
      height=source[0],
      width=source[1],
      fade_height=fade_height,
      fade_width=fade_width,
      keep_height=result[0] - fade_height,
      keep_width=result[1] - fade_width,
    )


@dataclasses.dataclass(frozen=True)
class TileGrid:
  """Positions of the tiles of a frame, and overlaps of their results.

  Attributes:
    rows: First row of each tile.
    columns: First column of each tile.
    height: Rows of a tile; fewer at the lower edge.
    width: Columns of a tile; fewer at the right edge.
    fade_height: Rows over which a result fades into the next one.
    fade_width: Columns over which a result fades into the next one.
    keep_height: Rows of a result that are kept.
    keep_width: Columns of a result that are kept.
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
    """Joins rows of results [B, f, h, w, c] to complete frames."""
    # Tiles may be on different devices.
    device = next(iter(tiles[0][0].devices()))
    return _join(jax.device_put([list(row) for row in tiles], device), self)


@functools.partial(jax.jit, static_argnums=1)
def _join(tiles: list[list[jax.Array]], grid: TileGrid) -> jax.Array:
  rows = []
  for i, row in enumerate(tiles):
    for j, tile in enumerate(row):
      # Both neighbours have already been faded themselves.
      if i > 0:
        tile = _fade(tiles[i - 1][j], tile, grid.fade_height, 2)
      if j > 0:
        tile = _fade(row[j - 1], tile, grid.fade_width, 3)
      row[j] = tile
    kept = [t[:, :, : grid.keep_height, : grid.keep_width] for t in row]
    rows.append(jnp.concatenate(kept, axis=3))
  return jnp.concatenate(rows, axis=2)


def _fade(a: jax.Array, b: jax.Array, extent: int, axis: int) -> jax.Array:
  """Fades the end of a into the start of b along an axis; returns b."""
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
