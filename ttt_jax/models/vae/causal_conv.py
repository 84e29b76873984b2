"""Convolutions of the causal video autoencoder, channel-last, with caches.

Alphabet: B batch, F frames of a chunk, h w its height and width, c channels. A
causal convolution depends on the current and the two previous frames. It
returns its last input frames as a cache for the next chunk, so that chunks join
without a seam. `cache=None` starts a video: the first frame is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Pixels per frame from which on frames are convolved one by one.
_LARGE = 1024

# (frames [B, n, h, w, c], maps of n frames) -> input of the convolution.
Prepare = Callable[[jax.Array, Any], jax.Array]


def conv2d(
  x: jax.Array,
  kernel: jax.Array,
  stride: int = 1,
  padding: Sequence[tuple[int, int]] = ((1, 1), (1, 1)),
) -> jax.Array:
  """Convolves every frame: x [B, F, h, w, i], kernel [kh, kw, i, o]."""
  frames = x.reshape((-1,) + x.shape[2:])
  y = lax.conv_general_dilated(
    frames, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT
  )
  return y.reshape(x.shape[:2] + y.shape[1:])


def causal_conv3d(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Computes a 3-D convolution, 'same' in space and 'valid' in time.

  It is a sum of one 2-D convolution per time tap: on CPU, XLA's 3-D convolution
  runs at a quarter of the speed of this sum, forwards and backwards.

  Args:
    x: Frames [B, F + kt - 1, h, w, i].
    kernel: Kernel [kt, kh, kw, i, o]; kh and kw are odd.

  Returns:
    [B, F, h, w, o].
  """
  taps, height, width = kernel.shape[:3]
  frames = x.shape[1] - taps + 1
  pad = ((height // 2,) * 2, (width // 2,) * 2)
  return jnp.asarray(
    sum(
      conv2d(x[:, i : i + frames], kernel[i], padding=pad) for i in range(taps)
    )
  )


def conv_frame_by_frame(
  x: jax.Array,
  kernel: jax.Array,
  cache: jax.Array,
  prepare: Prepare,
  maps: Any,
  finish: Prepare,
) -> tuple[jax.Array, jax.Array]:
  """Computes `causal_conv3d` with little more memory than input and output.

  A loop over the frames prepares one frame at a time; the time taps are
  channels of one 2-D convolution.

  Args:
    x: Frames [B, F, h, w, i'].
    kernel: Kernel [kt, kh, kw, i, o].
    cache: Prepared frames before x, [B, kt - 1, h, w, i].
    prepare: Maps a frame of x and of `maps` to [B, 1, h, w, i].
    maps: Pytree of [B, F, ...].
    finish: Maps a frame of the result and of `maps` to a frame of the output.

  Returns:
    [B, F, h, w, o], and the cache for the next frames.
  """
  taps, height, width, _, features = kernel.shape
  kernel = jnp.moveaxis(kernel, 0, 2).reshape(height, width, -1, features)
  pad = ((height // 2,) * 2, (width // 2,) * 2)

  def step(previous, frame, maps):
    frames = [*previous, prepare(frame, maps)]
    y = conv2d(jnp.concatenate(frames, axis=-1), kernel, padding=pad)
    return frames[1:], finish(y, maps)

  previous = [cache[:, i : i + 1] for i in range(taps - 1)]
  y, previous = scan_frames(step, previous, x, maps, (*x.shape[:4], features))
  return y, jnp.concatenate(previous, axis=1)


def scan_frames(
  step: Callable[..., tuple[Any, jax.Array]],
  carry: Any,
  x: jax.Array,
  maps: Any,
  shape: tuple[int, ...],
) -> tuple[jax.Array, Any]:
  """Scans over frames; overwrites x with the result if the shapes are equal.

  Args:
    step: Maps the carry, a frame [B, 1, ...] of x and a frame of `maps` to the
      next carry and a frame of the result.
    carry: Carry of the first frame.
    x: Frames [B, F, ...].
    maps: Pytree of [B, F, ...].
    shape: Shape of the result, [B, F, ...].

  Returns:
    The result, and the last carry.
  """
  take = lambda z, i: lax.dynamic_slice_in_dim(z, i, 1, axis=1)
  put = lambda z, y, i: lax.dynamic_update_slice_in_dim(z, y, i, axis=1)
  in_place = x.shape == shape
  out = x
  if not in_place:
    # Without the barrier XLA allocates the results of all loops at the start.
    x, out = lax.optimization_barrier((x, jnp.zeros(shape, x.dtype)))

  def write_frame(state, i):
    carry, out = state
    frame = take(out if in_place else x, i)
    carry, y = step(carry, frame, jax.tree.map(lambda m: take(m, i), maps))
    return (carry, put(out, y, i)), None

  (carry, out), _ = lax.scan(write_frame, (carry, out), jnp.arange(x.shape[1]))
  return out, carry


class CausalConv3d(nn.Module):
  """Convolution over space and time that is causal in time.

  Attributes:
    features: Channels of the result.
    kernel_size: Size of the kernel in time and space.
    loop: Convolves large frames one by one. This takes less memory and is
      faster, except for gradients on CPU, where XLA runs convolutions about ten
      times slower inside a loop.
  """

  features: int
  kernel_size: int = 3
  loop: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    cache: jax.Array | None = None,
    prepare: Prepare = lambda x, maps: x,
    maps: Any = (),
    add: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Convolves a chunk.

    Args:
      x: Frames [B, F, h, w, c].
      cache: Cache of the previous chunk; None starts a video.
      prepare: Function that maps x and `maps` to the input of the convolution.
      maps: Pytree of [B, F, ...] for `prepare`.
      add: Array to add to the result, [B, F, h, w, features].

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
    added: Any = () if add is None else add

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
        lambda z, pair: prepare(z, pair[0]),
        (maps, added),
        lambda y, pair: finish(y, pair[1]),
      )
    x = jnp.concatenate([cache, prepare(x, maps)], axis=1)
    y = finish(causal_conv3d(x, kernel), added)
    return y, x[:, x.shape[1] - (k - 1) :]


class Conv2d(nn.Module):
  """A 3x3 convolution of every frame."""

  features: int
  stride: int = 1
  loop: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    padding: Sequence[tuple[int, int]] = ((1, 1), (1, 1)),
    upsample: bool = False,
  ) -> jax.Array:
    """Convolves [B, F, h, w, c]; with `upsample`, as in `upsample_conv`."""
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(in_axis=(0, 1, 2)),
      (3, 3, x.shape[-1], self.features),
    )
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
    if not upsample:
      return conv2d(x, kernel, self.stride, padding) + bias
    convolve = lambda x: upsample_conv(x, kernel) + bias
    b, f, h, w, _ = x.shape
    if not self.loop or h * w < _LARGE:
      return convolve(x)
    shape = (b, f, 2 * h, 2 * w, self.features)
    y, _ = scan_frames(lambda _, x, __: ((), convolve(x)), (), x, (), shape)
    return y


def upsample_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Doubles height and width by repetition and convolves, with 4/9 of the work.

  Of three adjacent rows of the doubled frame, two are the same row of x, so two
  taps are added: row 2 i of the result applies k0 and k1 + k2 to rows i - 1 and
  i of x; row 2 i + 1 applies k0 + k1 and k2 to rows i and i + 1. Columns
  likewise.

  Args:
    x: Frames [B, F, h, w, i].
    kernel: Kernel [3, 3, i, o].

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


def downsample_time(x: jax.Array) -> jax.Array:
  """Averages pairs of frames; keeps the first frame of an odd chunk."""
  first = x[:, : x.shape[1] % 2]
  rest = x[:, x.shape[1] % 2 :]
  pairs = rest.reshape(rest.shape[0], -1, 2, *rest.shape[2:]).mean(axis=2)
  return jnp.concatenate([first, pairs], axis=1)


def repeat_frames(x: jax.Array, frames: int) -> jax.Array:
  """Repeats every frame, so that the result has `frames` frames.

  If their number is odd and above one, the first frame is not repeated: it is
  the first of the video, which is not compressed in time.
  """
  single = frames % 2 if frames > 1 else 0
  times = (frames - single) // (x.shape[1] - single)
  rest = jnp.repeat(x[:, single:], times, axis=1)
  return jnp.concatenate([x[:, :single], rest], axis=1)


class Downsample(nn.Module):
  """Halves height and width, and time if `time`."""

  time: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.time:
      x = downsample_time(x)
    conv = Conv2d(x.shape[-1], stride=2, name='conv')
    return conv(x, padding=((0, 1), (0, 1)))


class Upsample(nn.Module):
  """Doubles height and width, and time if `time`."""

  time: bool
  loop: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = Conv2d(x.shape[-1], loop=self.loop, name='conv')(x, upsample=True)
    # Frames are repeated last, since the convolution treats each on its own.
    return repeat_frames(y, 2 * x.shape[1] - x.shape[1] % 2) if self.time else y
