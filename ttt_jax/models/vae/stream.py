"""Encodes and decodes videos of any length, one chunk at a time.

Frames and latents stay on the host. For any length, the device holds only the
parameters, one chunk and the caches. For each size of frame, one program is
compiled for the first chunk and one for all others. With several devices, each
holds a part of height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
import math
from typing import Any

import jax
from jax import sharding as jax_sharding
import jax.numpy as jnp
import numpy as np

from ttt_jax.models.vae import causal3d
from ttt_jax.models.vae import tiling as tiling_lib

P = jax_sharding.PartitionSpec
_AXES = ('rows', 'columns')


class VAEStream:
  """A `CausalVAE` for inference.

  Attributes:
    config: Sizes of the autoencoder.
    devices: Devices over which frames are split.
  """

  def __init__(
    self,
    config: causal3d.CausalVAEConfig,
    params: Any,
    *,
    tiling: tiling_lib.Tiling | None = None,
    dtype: jnp.dtype | None = None,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Stores the arguments; nothing is compiled yet.

    Args:
      config: Sizes of the autoencoder.
      params: Parameters of the autoencoder.
      tiling: Overlapping tiles for large frames, which bound the memory and
        change the result; None processes complete frames.
      dtype: Dtype of the activations; None is float32.
      devices: Devices of this process over which frames are split; None takes
        the default device.
    """
    self.config = config
    self.devices = tuple(devices or jax.local_devices()[:1])
    self._tiling = tiling
    self._module: Any = causal3d.CausalVAE(config, dtype=dtype)
    self._params = params
    self._placed = {}

  def encode(
    self, frames: np.ndarray
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Encodes frames; yields chunks of the latents, in model units.

    Args:
      frames: Frames [B, F', H, W, 3], uint8, or float in [-1, 1].

    Yields:
      mean, logvar: float32 [B, f, H/8, W/8, c], on the host.

    Raises:
      ValueError: the compression does not divide a size.
    """
    self.config.check_frames(frames.shape)
    tiles = None
    if self._tiling is not None:
      tiles = self._tiling.encoding(self.config, *frames.shape[2:4])
    chunks = self._run('encode_chunk', frames, self.config.encode_window, tiles)
    for moments in _prefetch(chunks):
      yield jax.device_get(self._to_units(moments))

  def decode(self, latents: np.ndarray) -> Iterator[np.ndarray]:
    """Decodes latents; yields chunks of the video.

    Args:
      latents: Latents [B, F, H/8, W/8, c] in model units.

    Yields:
      Unclipped float32 [B, f, H, W, 3] of about [-1, 1], on the host.
    """
    for frames in _prefetch(self._decode(latents)):
      yield np.asarray(frames)

  def decode_pixels(self, latents: np.ndarray) -> Iterator[np.ndarray]:
    """Decodes latents as `decode` does; yields uint8."""
    for frames in _prefetch(map(_to_pixels, self._decode(latents))):
      yield np.asarray(frames)

  def _decode(self, latents):
    self.config.check_latents(latents.shape)
    tiles = None
    if self._tiling is not None:
      tiles = self._tiling.decoding(self.config, *latents.shape[2:4])
    return self._run('decode_chunk', latents, self.config.decode_window, tiles)

  def _run(
    self,
    method: str,
    x: np.ndarray,
    chunk: int,
    tiles: tiling_lib.TileGrid | None,
  ) -> Iterator[jax.Array]:
    """Yields the results of `method`, one chunk after another."""
    caches: dict[tuple[int, ...], Any] = {}
    start, size = 0, causal3d.first_chunk_length(x.shape[1], chunk)
    while start < x.shape[1]:
      part = x[:, start : start + size]
      start, size = start + size, chunk
      if tiles is None:
        y, caches[()] = self._step(method, part, caches.pop((), None))
        yield y
        continue
      rows = []
      for i in tiles.rows:
        rows.append([])
        for j in tiles.columns:
          tile = part[:, :, i : i + tiles.height, j : j + tiles.width]
          y, caches[i, j] = self._step(method, tile, caches.pop((i, j), None))
          rows[-1].append(y)
      yield tiles.join(rows)

  def _step(self, method, part, cache):
    """Runs one chunk of one tile; returns the result and the cache."""
    ratio = 1
    if method == 'encode_chunk':
      ratio = self.config.spatial_compression
    mesh = _spatial_mesh(
      self.devices, part.shape[2] // ratio, part.shape[3] // ratio
    )
    if mesh not in self._placed:
      copies = jax_sharding.NamedSharding(mesh, P())
      self._placed[mesh] = jax.device_put(self._params, copies)
    split = jax_sharding.NamedSharding(mesh, P(None, None, *_AXES))
    step = _compiled(self._module, method, split)
    return step(self._placed[mesh], jax.device_put(part, split), cache)

  @functools.cached_property
  def _to_units(self):
    return jax.jit(functools.partial(self._module.apply, {}, method='to_units'))


def _prefetch(chunks: Iterator[jax.Array]) -> Iterator[jax.Array]:
  """Yields the same chunks; the device computes the next one meanwhile."""
  current = next(chunks)
  for following in chunks:
    yield current
    current = following
  yield current


@functools.lru_cache
def _compiled(module, method, split):
  """Returns the jitted step (params, chunk, cache) -> (result, cache).

  The memory of the old cache is reused.
  """

  def step(params, x, cache):
    if x.dtype == jnp.uint8:
      x = x.astype(jnp.float32) / 127.5 - 1
    return module.apply({'params': params}, x, cache, method=method)

  # The parts of height and width that divide the latents also divide every
  # array of the cache.
  return jax.jit(step, donate_argnums=2, out_shardings=split)


@jax.jit
def _to_pixels(frames: jax.Array) -> jax.Array:
  """Converts frames of about [-1, 1] to uint8."""
  return jnp.clip(jnp.round((frames + 1) * 127.5), 0, 255).astype(jnp.uint8)


@functools.lru_cache
def _spatial_mesh(
  devices: tuple[jax.Device, ...], height: int, width: int
) -> jax_sharding.Mesh:
  """Returns a mesh of as many devices as can split latents of this size."""
  # XLA convolves parts of a single row or column incorrectly; use two or more.
  fits = lambda size, parts: (
    size % parts == 0 and (parts == 1 or size // parts > 1)
  )
  shapes = [
    (rows, columns)
    for rows in range(1, len(devices) + 1)
    for columns in range(1, len(devices) // rows + 1)
    if fits(height, rows) and fits(width, columns)
  ]
  # Among meshes of equal size, the one with the shortest borders between parts.
  shape = max(
    shapes,
    key=lambda s: (math.prod(s), -s[0] * width - s[1] * height),
  )
  grid = np.array(devices[: math.prod(shape)]).reshape(shape)
  return jax_sharding.Mesh(grid, _AXES)
