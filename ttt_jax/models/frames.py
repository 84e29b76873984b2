"""The frames of a clip, split over devices.

Most of the network works frame by frame. What meets other frames is here:
means over a clip, the first and the previous frame of each, and all frames of
a pixel. It runs inside `jax.shard_map`, where a device sees its own frames.

Alphabet: f frames of a device, P pixels of a frame.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

_AXIS = 'sp'


@dataclasses.dataclass(frozen=True)
class Frames:
  """Which frames of a clip a device has: equally many, in order.

  The last devices may have frames behind the end, whose values nobody reads.

  Attributes:
    total: F, frames of a clip.
    parts: devices of the mesh axis `sp`; 1 runs outside of a mesh, too.
  """

  total: int
  parts: int = 1

  @property
  def local(self) -> int:
    """f."""
    return -(-self.total // self.parts)

  @property
  def padding(self) -> int:
    """Frames behind the end, over all devices."""
    return self.local * self.parts - self.total

  def mean(self, x: jax.Array) -> jax.Array:
    """[B, f, ..., C] -> [B, C], over pixels and all frames of a clip."""
    x = x.mean(axis=tuple(range(2, x.ndim - 1)))
    if self.parts == 1:
      return x.mean(axis=1)
    if self.padding:
      number = jax.lax.axis_index(_AXIS) * self.local + jnp.arange(self.local)
      x = jnp.where(number[:, None] < self.total, x, 0)
    return jax.lax.psum(x.sum(axis=1), _AXIS) / self.total

  def first_and_previous(self, x: jax.Array) -> jax.Array:
    """Tokens of the first and the previous frame, for each frame.

    The first frame has itself twice, the second the first one twice: where a
    token is there twice, softmax gives what it gives to one.

    Args:
      x: [B f, P, M].

    Returns:
      [B f, 2 P, M]; for clips of one frame, x.
    """
    if self.total == 1:
      return x
    n, p, m = x.shape
    x = x.reshape(-1, self.local, p, m)
    first = before = x[:, :1]
    if self.parts > 1:
      is_first = jax.lax.axis_index(_AXIS) == 0
      first = jax.lax.psum(jnp.where(is_first, first, 0), _AXIS)
      before = jax.lax.ppermute(
        x[:, -1:], _AXIS, [(i, i + 1) for i in range(self.parts - 1)]
      )
      before = jnp.where(is_first, first, before)
    previous = jnp.concatenate([before, x[:, :-1]], axis=1)
    first = jnp.broadcast_to(first, x.shape)
    return jnp.concatenate([first, previous], axis=2).reshape(n, 2 * p, m)

  def by_pixels(
    self, function: Callable[[jax.Array], jax.Array], x: jax.Array
  ) -> jax.Array:
    """Calls `function` where all frames of some pixels are at hand.

    Args:
      function: [N, F, M] -> [N, F, M], N pixels of clips.
      x: [B f, P, M].

    Returns:
      As x.
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
