"""Videos of any length through the autoencoder, a window at a time.

Frames and latents stay on the host; on the device are the parameters, one
window and the caches, whatever the length. A program is compiled for the
first window and one for all others, for every size of frame. Where there are
several devices, each holds a part of height and width.
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
    config: of the autoencoder.
    devices: that share the frames.
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
    """Prepares; nothing is compiled yet.

    Args:
      config: of the autoencoder.
      params: its parameters.
      tiling: encode and decode large frames in overlapping tiles, which
        changes the result and bounds the memory; None: frames as a whole.
      dtype: of the network's activations; None is float32.
      devices: of this process, over which frames are split; the default
        device if None.
    """
    self.config = config
    self.devices = tuple(devices or jax.local_devices()[:1])
    self._tiling = tiling
    self._module = causal3d.CausalVAE(config, dtype=dtype)
    self._params = params
    self._placed = {}

  def encode(
    self, frames: np.ndarray
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows of the latents, in model units.

    Args:
      frames: [B, F', H, W, 3], uint8, or float in [-1, 1].

    Yields:
      mean, logvar: float32 [B, f, H/8, W/8, c], on the host.

    Raises:
      ValueError: a size that the compression does not divide.
    """
    self.config.check_frames(frames.shape)
    plan = None
    if self._tiling is not None:
      plan = self._tiling.encoding(self.config, *frames.shape[2:4])
    windows = self._run(
      'encode_window', frames, self.config.encode_window, plan
    )
    for moments in _prefetch(windows):
      yield jax.device_get(self._to_units(moments))

  def decode(self, latents: np.ndarray) -> Iterator[np.ndarray]:
    """Windows of the video.

    Args:
      latents: [B, F, H/8, W/8, c] in model units.

    Yields:
      float32 [B, f, H, W, 3] about [-1, 1], unclipped, on the host.
    """
    for frames in _prefetch(self._decode(latents)):
      yield np.asarray(frames)

  def decode_pixels(self, latents: np.ndarray) -> Iterator[np.ndarray]:
    """As `decode`, but uint8."""
    for frames in _prefetch(map(_to_pixels, self._decode(latents))):
      yield np.asarray(frames)

  def _decode(self, latents):
    self.config.check_latents(latents.shape)
    plan = None
    if self._tiling is not None:
      plan = self._tiling.decoding(self.config, *latents.shape[2:4])
    return self._run('decode_window', latents, self.config.decode_window, plan)

  def _run(
    self,
    method: str,
    x: np.ndarray,
    window: int,
    plan: tiling_lib.TileGrid | None,
  ) -> Iterator[jax.Array]:
    """Results of `method`, window after window."""
    caches = {}
    start = 0
    while start < x.shape[1]:
      size = (
        window if start else causal3d.first_chunk_length(x.shape[1], window)
      )
      part = x[:, start : start + size]
      start += size
      if plan is None:
        y, caches[()] = self._step(method, part, caches.pop((), None))
        yield y
        continue
      rows = []
      for i in plan.rows:
        rows.append([])
        for j in plan.columns:
          tile = part[:, :, i : i + plan.height, j : j + plan.width]
          y, caches[i, j] = self._step(method, tile, caches.pop((i, j), None))
          rows[-1].append(y)
      yield plan.join(rows)

  def _step(self, method, part, cache):
    """One window of one tile: result and cache."""
    ratio = 1
    if method == 'encode_window':
      ratio = self.config.spatial_compression
    mesh = _spatial_mesh(
      self.devices, part.shape[2] // ratio, part.shape[3] // ratio
    )
    if mesh not in self._placed:
      copies = jax_sharding.NamedSharding(mesh, P())
      self._placed[mesh] = jax.device_put(self._params, copies)
    where = jax_sharding.NamedSharding(mesh, P(None, None, *_AXES))
    step = _compiled(self._module, method, where)
    return step(self._placed[mesh], jax.device_put(part, where), cache)

  @functools.cached_property
  def _to_units(self):
    return jax.jit(functools.partial(self._module.apply, {}, method='to_units'))


def _prefetch(windows: Iterator[jax.Array]) -> Iterator[jax.Array]:
  """The same; while one is used, the next is computed."""
  last = next(windows)
  for window in windows:
    yield last
    last = window
  yield last


@functools.lru_cache
def _compiled(module, method, where):
  """(params, window, cache) -> result, cache; the old cache is reused."""

  def step(params, x, cache):
    if x.dtype == jnp.uint8:
      x = x.astype(jnp.float32) / 127.5 - 1
    return module.apply({'params': params}, x, cache, method=method)

  # Every array of the cache has a height and a width that divide as the
  # latents' do.
  return jax.jit(step, donate_argnums=2, out_shardings=where)


@jax.jit
def _to_pixels(frames: jax.Array) -> jax.Array:
  """About [-1, 1] -> uint8."""
  return jnp.clip(jnp.round((frames + 1) * 127.5), 0, 255).astype(jnp.uint8)


@functools.lru_cache
def _spatial_mesh(
  devices: tuple[jax.Device, ...], height: int, width: int
) -> jax_sharding.Mesh:
  """As many of the devices as latents of this size can be split over."""
  # XLA convolves parts of a single row and column wrongly: two or more.
  fits = lambda size, parts: (
    size % parts == 0 and (parts == 1 or size // parts > 1)
  )
  shapes = [
    (rows, columns)
    for rows in range(1, len(devices) + 1)
    for columns in range(1, len(devices) // rows + 1)
    if fits(height, rows) and fits(width, columns)
  ]
  # Of equal numbers the one whose parts touch each other least.
  shape = max(
    shapes,
    key=lambda s: (math.prod(s), -s[0] * width - s[1] * height),
  )
  grid = np.array(devices[: math.prod(shape)]).reshape(shape)
  return jax_sharding.Mesh(grid, _AXES)
