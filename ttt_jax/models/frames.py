"""Operations across the frames of a clip that is split over devices.

Most of the U-Net treats each frame on its own. This module contains the
exceptions: means over a clip, the first and the previous frame of each frame,
and all frames of a pixel. They run inside `jax.shard_map`, where a device has
only its own frames.

Alphabet: f frames per device, P pixels per frame.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

_AXIS = 'sp'


@dataclasses.dataclass(frozen=True)
class Frames:
  """Distribution of a clip's frames: consecutive runs of equal length.

  The last devices may have padding frames after the end, whose values are not
  used.

  Attributes:
    total: Frames of a clip, F.
    parts: Devices of the mesh axis `sp`; 1 also runs outside a mesh.
  """

  total: int
  parts: int = 1

  @property
  def local(self) -> int:
    """Frames per device, f."""
    return -(-self.total // self.parts)

  @property
  def padding(self) -> int:
    """Padding frames over all devices."""
    return self.local * self.parts - self.total

  def mean(self, x: jax.Array) -> jax.Array:
    """Returns the mean over all pixels and frames: [B, f, ..., C] -> [B, C]."""
    x = x.mean(axis=tuple(range(2, x.ndim - 1)))
    if self.parts == 1:
      return x.mean(axis=1)
    if self.padding:
      number = jax.lax.axis_index(_AXIS) * self.local + jnp.arange(self.local)
      x = jnp.where(number[:, None] < self.total, x, 0)
    return jax.lax.psum(x.sum(axis=1), _AXIS) / self.total

  def first_and_previous(self, x: jax.Array) -> jax.Array:
    """Returns tokens of the first and the previous frame, for each frame.

    The first frame gets itself twice and the second frame gets the first one
    twice: softmax attention does not change if every key is duplicated.

    Args:
      x: Tokens [B f, P, M].

    Returns:
      [B f, 2 P, M]; x itself for clips of one frame.
    """
    if self.total == 1:
      return x
    n, p, m = x.shape
    x = x.reshape(-1, self.local, p, m)
    first = preceding = x[:, :1]
    if self.parts > 1:
      is_first = jax.lax.axis_index(_AXIS) == 0
      first = jax.lax.psum(jnp.where(is_first, first, 0), _AXIS)
      preceding = jax.lax.ppermute(
        x[:, -1:], _AXIS, [(i, i + 1) for i in range(self.parts - 1)]
      )
      preceding = jnp.where(is_first, first, preceding)
    previous = jnp.concatenate([preceding, x[:, :-1]], axis=1)
    first = jnp.broadcast_to(first, x.shape)
    return jnp.concatenate([first, previous], axis=2).reshape(n, 2 * p, m)

  def by_pixels(
    self, function: Callable[[jax.Array], jax.Array], x: jax.Array
  ) -> jax.Array:
    """Calls `function` on all frames of some of the pixels.

    Args:
      function: Maps [N, F, M] to [N, F, M] for N pixels of clips.
      x: Tokens [B f, P, M].

    Returns:
      Array of the same shape as x.
    """
    n, p, m = x.shape
    x = x.reshape(-1, self.local, p, m)
    if self.parts > 1:
      x = jnp.pad(x, ((0, 0), (0, 0), (0, -p % self.parts), (0, 0)))
      x = jax.lax.all_to_all(x, _AXIS, 2, 1, tiled=True)[:, : self.total]
    x = x.swapaxes(1, 2)
    x = function(x.reshape(-1, self.total, m)).reshape(x.shape).swapaxes(1, 2)
    if self.parts > 1:
      x = jnp.pad(x, ((0, 0), (0, self.padding), (0, 0), (0, 0)))
      x = jax.lax.all_to_all(x, _AXIS, 1, 2, tiled=True)[:, :, :p]
    return x.reshape(n, p, m)
