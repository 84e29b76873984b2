"""Convolutions of the causal video autoencoder, channel-last, with caches.

Letters: B batch, F frames of the window at hand, h w its height and width,
c channels. A causal convolution sees the current and the two previous frames;
between windows it hands on its last input frames as a cache, so that windows
join without a seam. `cache=None` starts a video: the first frame is repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Pixels of a frame from which on frames are convolved one by one.
_LARGE = 1024

# (frames [B,n,h,w,c], maps of as many frames) -> what is convolved.
Prepare = Callable[[jax.Array, Any], jax.Array]


def conv2d(
  x: jax.Array, kernel: jax.Array, stride: int = 1, padding=((1, 1), (1, 1))
) -> jax.Array:
  """2-D convolution of every frame: [B,F,h,w,i] * [kh,kw,i,o]."""
  frames = x.reshape((-1,) + x.shape[2:])
  y = lax.conv_general_dilated(
    frames, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT
  )
  return y.reshape(x.shape[:2] + y.shape[1:])


def causal_conv3d(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """3-D convolution, 'same' in space, 'valid' in time.

  Written as a sum of one 2-D convolution per time tap: XLA's own 3-D
  convolution reaches a quarter of its speed on CPU, and its automatic
  gradients keep that speed.

  Args:
    x: [B, F + kt - 1, h, w, i].
    kernel: [kt, kh, kw, i, o], odd kh and kw.

  Returns:
    [B, F, h, w, o].
  """
  taps, height, width = kernel.shape[:3]
  frames = x.shape[1] - taps + 1
  pad = ((height // 2,) * 2, (width // 2,) * 2)
  return sum(
    conv2d(x[:, i : i + frames], kernel[i], padding=pad) for i in range(taps)
  )


def conv_frame_by_frame(
  x: jax.Array,
  kernel: jax.Array,
  cache: jax.Array,
  prepare: Prepare,
  maps: Any,
  finish: Prepare,
) -> tuple[jax.Array, jax.Array]:
  """As `causal_conv3d`, holding little more than input and output.

  A loop over the frames: what is convolved exists one frame at a time, and
  the taps of time are channels of one 2-D convolution.

  Args:
    x: [B, F, h, w, i'].
    kernel: [kt, kh, kw, i, o].
    cache: [B, kt - 1, h, w, i], what was convolved before.
    prepare: (frame of x, frame of maps) -> [B, 1, h, w, i].
    maps: pytree of [B, F, ...].
    finish: (frame of the result, frame of maps) -> frame of the output.

  Returns:
    [B, F, h, w, o], and the cache of the next frames.
  """
  taps, height, width, _, features = kernel.shape
  kernel = jnp.moveaxis(kernel, 0, 2).reshape(height, width, -1, features)
  pad = ((height // 2,) * 2, (width // 2,) * 2)

  def step(seen, frame, maps):
    seen = [*seen, prepare(frame, maps)]
    y = conv2d(jnp.concatenate(seen, axis=-1), kernel, padding=pad)
    return seen[1:], finish(y, maps)

  seen = [cache[:, i : i + 1] for i in range(taps - 1)]
  y, seen = over_frames(step, seen, x, maps, (*x.shape[:4], features))
  return y, jnp.concatenate(seen, axis=1)


def over_frames(
  step: Callable[..., tuple[Any, jax.Array]],
  carry: Any,
  x: jax.Array,
  maps: Any,
  shape: tuple[int, ...],
) -> tuple[jax.Array, Any]:
  """A loop over frames that writes where it has read, if the shapes allow.

  Args:
    step: (carry, frame [B, 1, ...] of x, frame of maps) -> carry, frame of
      the result.
    carry: for the first frame.
    x: [B, F, ...].
    maps: pytree of [B, F, ...].
    shape: of the result, [B, F, ...].

  Returns:
    The result, and the last carry.
  """
  at = lambda z, i: lax.dynamic_slice_in_dim(z, i, 1, axis=1)
  put = lambda z, y, i: lax.dynamic_update_slice_in_dim(z, y, i, axis=1)
  frames = jnp.arange(x.shape[1])
  if x.shape == shape:

    def in_place(both, i):
      carry, z = both
      carry, y = step(carry, at(z, i), jax.tree.map(lambda m: at(m, i), maps))
      return (carry, put(z, y, i)), None

    (carry, y), _ = lax.scan(in_place, (carry, x), frames)
    return y, carry

  def beside(both, i):
    carry, z = both
    carry, y = step(carry, at(x, i), jax.tree.map(lambda m: at(m, i), maps))
    return (carry, put(z, y, i)), None

  # Without the barrier XLA allocates the results of all loops at the start.
  x, z = lax.optimization_barrier((x, jnp.zeros(shape, x.dtype)))
  (carry, y), _ = lax.scan(beside, (carry, z), frames)
  return y, carry


class CausalConv3d(nn.Module):
  """Convolution over time and space that never looks at a later frame.

  Attributes:
    features: channels of the result.
    kernel_size: in time and space.
    loop: convolve large frames one by one: less memory, and faster but for
      gradients on CPU, where XLA runs those of convolutions inside a loop
      some ten times slower than outside.
  """

  features: int
  kernel_size: int = 3
  loop: bool = False

  @nn.compact
  def __call__(
    self,
    x,
    cache=None,
    prepare: Prepare = lambda x, maps: x,
    maps=(),
    add=None,
  ):
    """Convolves.

    Args:
      x: [B, F, h, w, c].
      cache: of the frames before.
      prepare: applied to x first; (x, maps) -> what is convolved.
      maps: for `prepare`, pytree of [B, F, ...].
      add: added to the result, [B, F, h, w, features].

    Returns:
      y [B, F, h, w, features], cache [B, kernel_size - 1, h, w, c].
    """
    k = self.kernel_size
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3)),
      (k, k, k, x.shape[-1], self.features),
    )
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
    add = () if add is None else add

    def finish(y, add):
      return y + bias if isinstance(add, tuple) else y + bias + add

    if cache is None:
      first = jax.tree.map(lambda z: z[:, :1], (x, maps))
      cache = jnp.repeat(prepare(*first), k - 1, axis=1)
    if self.loop and k > 1 and x.shape[2] * x.shape[3] >= _LARGE:
      return conv_frame_by_frame(
        x,
        kernel,
        cache,
        lambda z, both: prepare(z, both[0]),
        (maps, add),
        lambda y, both: finish(y, both[1]),
      )
    x = jnp.concatenate([cache, prepare(x, maps)], axis=1)
    y = finish(causal_conv3d(x, kernel), add)
    return y, x[:, x.shape[1] - (k - 1) :]


class Conv2d(nn.Module):
  """The same 3x3 convolution on every frame."""

  features: int
  stride: int = 1
  loop: bool = False

  @nn.compact
  def __call__(self, x, padding=((1, 1), (1, 1)), doubled=False):
    """With `doubled`, of x at twice its height and width (nearest)."""
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(in_axis=(0, 1, 2)),
      (3, 3, x.shape[-1], self.features),
    )
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
    if doubled and self.loop and x.shape[2] * x.shape[3] >= _LARGE:
      b, f, h, w, _ = x.shape
      step = lambda _, x, __: ((), conv_of_doubled(x, kernel) + bias)
      return over_frames(step, (), x, (), (b, f, 2 * h, 2 * w, self.features))[
        0
      ]
    if doubled:
      return conv_of_doubled(x, kernel) + bias
    return conv2d(x, kernel, self.stride, padding) + bias


def conv_of_doubled(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """3x3 convolution of x doubled in height and width, 4/9 of the products.

  Of three neighbouring rows two are the same row of x, so two taps join: row
  2 i of the result has the taps k0 and k1 + k2 on the rows i - 1 and i of x,
  row 2 i + 1 has k0 + k1 and k2 on the rows i and i + 1. Columns alike.

  Args:
    x: [B, F, h, w, i].
    kernel: [3, 3, i, o].

  Returns:
    [B, F, 2 h, 2 w, o].
  """
  b, f, h, w, _ = x.shape

  def phases(k):  # [3, ...] -> [2 taps, 2 phases, ...]
    even = jnp.stack([k[0], k[1] + k[2]])
    odd = jnp.stack([k[0] + k[1], k[2]])
    return jnp.stack([even, odd], axis=1)

  k = phases(kernel)  # [2, 2, 3, i, o]
  k = phases(jnp.moveaxis(k, 2, 0))  # [2, 2, 2, 2, i, o]: width, then height
  k = k.transpose(2, 0, 4, 3, 1, 5).reshape(2, 2, x.shape[-1], -1)
  y = conv2d(x, k).reshape(b, f, h + 1, w + 1, 2, 2, -1)
  rows = [
    jnp.stack([y[:, :, p : p + h, q : q + w, p, q] for q in (0, 1)], axis=4)
    for p in (0, 1)
  ]
  return jnp.stack(rows, axis=3).reshape(b, f, 2 * h, 2 * w, -1)


def halve_time(x: jax.Array) -> jax.Array:
  """Averages pairs of frames; an odd window's first frame stays alone."""
  first = x[:, : x.shape[1] % 2]
  rest = x[:, x.shape[1] % 2 :]
  pairs = rest.reshape(rest.shape[0], -1, 2, *rest.shape[2:]).mean(axis=2)
  return jnp.concatenate([first, pairs], axis=1)


def lengthen(x: jax.Array, frames: int) -> jax.Array:
  """Repeats every frame until there are `frames`.

  With an odd number above one, the first frame stands alone (it is the
  video's first, which time compression leaves alone).
  """
  alone = frames % 2 if frames > 1 else 0
  times = (frames - alone) // (x.shape[1] - alone)
  rest = jnp.repeat(x[:, alone:], times, axis=1)
  return jnp.concatenate([x[:, :alone], rest], axis=1)


class Downsample(nn.Module):
  """Halves height and width, and time if `time`."""

  time: bool

  @nn.compact
  def __call__(self, x):
    if self.time:
      x = halve_time(x)
    conv = Conv2d(x.shape[-1], stride=2, name='conv')
    return conv(x, padding=((0, 1), (0, 1)))


class Upsample(nn.Module):
  """Doubles height and width, and time if `time`."""

  time: bool
  loop: bool = False

  @nn.compact
  def __call__(self, x):
    y = Conv2d(x.shape[-1], loop=self.loop, name='conv')(x, doubled=True)
    # The convolution sees one frame at a time: repeating comes after it.
    return lengthen(y, 2 * x.shape[1] - x.shape[1] % 2) if self.time else y
