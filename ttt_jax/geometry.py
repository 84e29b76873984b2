"""How a video of a given length becomes one token sequence.

Sizes are plain numbers on the host, checked once, before any device is
touched. `ttt_jax.token_order` says where each token sits.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ttt_jax import token_order

MAX_SEGMENTS = 200


@dataclasses.dataclass(frozen=True)
class Geometry:
  """Sizes and token orders of one video.

  Attributes:
    frames: pixel frames, `temporal_compression * (latent_frames - 1) + 1`.
    height: pixels, a multiple of `spatial_compression * patch_size`.
    width: pixels, likewise.
    fps: frames a second.
    text_length: text tokens of a segment, L. Any number.
    mini_batch: tokens that share one step of the TTT layers, C. The sequence
      needs no particular length: the last mini-batch is padded with tokens
      whose step size is zero.
    spatial_compression: pixels a latent cell, per side.
    temporal_compression: pixel frames a latent frame, after the first.
    patch_size: latent cells a token, per side.
    segment_latent_frames: latent frames of a segment, n (12 in the paper:
      3 seconds at 16 frames a second).
  """

  frames: int
  height: int
  width: int
  fps: int = 16
  text_length: int = 226
  mini_batch: int = 64
  spatial_compression: int = 8
  temporal_compression: int = 4
  patch_size: int = 2
  segment_latent_frames: int = 12

  def __post_init__(self):
    _check_whole(self)
    _check_pixels(self, self.spatial_compression * self.patch_size)
    unit = self.segment_latent_frames * self.temporal_compression
    if (self.frames - 1) % unit or self.frames == 1:
      legal = max(1, round((self.frames - 1) / unit)) * unit + 1
      raise ValueError(
        f'{self.frames} frames do not make whole segments; the number must'
        f' be a multiple of {unit} plus 1, for example {legal}'
      )
    if self.segments > MAX_SEGMENTS:
      raise ValueError(
        f'{self.segments} segments; at most {MAX_SEGMENTS} are supported'
      )

  @classmethod
  def from_seconds(
    cls, seconds: float, height: int, width: int, fps: int = 16, **sizes
  ) -> Geometry:
    """The geometry of `seconds` of video (a multiple of a segment's length).

    Args:
      seconds: length, for example 3, 9, 18, 30 or 63.
      height: pixels.
      width: pixels.
      fps: frames a second.
      **sizes: the other fields of the class.

    Raises:
      ValueError: a length that is no whole number of segments, or sizes that
        do not divide; the message names a legal value.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    defaults.update(sizes)
    unit = defaults['segment_latent_frames'] * defaults['temporal_compression']
    segments = seconds * fps / unit
    if segments < 1 or segments != int(segments):
      segment_seconds = unit / fps
      legal = max(1, round(segments)) * segment_seconds
      raise ValueError(
        f'{seconds:g} seconds are no whole number of segments; the length'
        f' must be a multiple of {segment_seconds:g} s, for example'
        f' {legal:g}'
      )
    return cls(
      frames=int(segments) * unit + 1,
      height=height,
      width=width,
      fps=fps,
      **sizes,
    )

  @classmethod
  def from_config(cls, config) -> Geometry:
    """The geometry of a stage's clips, from `data`, `text` and `model`."""
    model = {
      name: config.model[name]
      for name in ('mini_batch', 'patch_size', 'segment_latent_frames')
      if name in config.model
    }
    return cls.from_seconds(
      config.data.seconds,
      config.data.height,
      config.data.width,
      config.data.fps,
      text_length=config.text.length,
      **model,
    )

  @property
  def latent_frames(self) -> int:
    """F."""
    return (self.frames - 1) // self.temporal_compression + 1

  @property
  def segments(self) -> int:
    """S."""
    return (self.latent_frames - 1) // self.segment_latent_frames

  @property
  def latent_height(self) -> int:
    return self.height // self.spatial_compression

  @property
  def latent_width(self) -> int:
    return self.width // self.spatial_compression

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of tokens in a frame."""
    return (
      self.latent_height // self.patch_size,
      self.latent_width // self.patch_size,
    )

  @property
  def order(self) -> token_order.TokenOrder:
    rows, columns = self.grid
    return token_order.TokenOrder(
      self.segments,
      self.segment_latent_frames,
      rows,
      columns,
      self.text_length,
    )

  @property
  def tokens_per_frame(self) -> int:
    """P."""
    return self.order.tokens_per_frame

  @property
  def sequence_length(self) -> int:
    """T."""
    return self.order.length

  @property
  def mini_batches(self) -> int:
    """N."""
    return -(-self.sequence_length // self.mini_batch)

  @property
  def padded_length(self) -> int:
    """Tokens that the TTT layers read: T and the padding behind it."""
    return self.mini_batches * self.mini_batch

  def table(self) -> list[tuple[str, str]]:
    """Rows (quantity, value) to print."""
    rows, columns = self.grid
    seconds = (self.frames - 1) / self.fps
    return [
      ('video', f'{seconds:g} s: {self.frames} frames at {self.fps} fps'),
      ('pixels', f'{self.height} x {self.width}'),
      (
        'latents',
        f'{self.latent_frames} x {self.latent_height} x {self.latent_width}',
      ),
      ('segments', f'{self.segments}'),
      (
        'tokens a frame',
        f'{self.tokens_per_frame:,} ({rows} x {columns})',
      ),
      ('text tokens a segment', f'{self.text_length:,}'),
      ('attention window', f'{self.order.window:,} tokens'),
      ('sequence', f'{self.sequence_length:,} tokens'),
      (
        'mini-batches',
        f'{self.mini_batches:,} of {self.mini_batch} tokens'
        f' ({self.padded_length - self.sequence_length} of padding)',
      ),
    ]


@dataclasses.dataclass(frozen=True)
class FrameGeometry:
  """Sizes of a video whose frames are encoded one by one (a U-Net's).

  Attributes:
    frames: F, of pixels and of latents.
    height: pixels, a multiple of `spatial_compression`.
    width: pixels, likewise.
    fps: frames a second.
    text_length: text tokens of the clip, L.
    spatial_compression: pixels a latent cell, per side.
  """

  frames: int
  height: int
  width: int
  fps: int
  text_length: int
  spatial_compression: int = 8

  # One text for the clip, and nothing reads it in mini-batches.
  segments = 1
  mini_batch = 1

  def __post_init__(self):
    _check_whole(self)
    _check_pixels(self, self.spatial_compression)

  @classmethod
  def from_config(cls, config) -> FrameGeometry:
    """The geometry of a config's clips, from `data` and `text`."""
    data = config.data
    return cls(
      data.frames,
      data.height,
      data.width,
      data.fps,
      config.text.length,
      data.get('spatial_compression', cls.spatial_compression),
    )

  @property
  def latent_frames(self) -> int:
    """F."""
    return self.frames

  @property
  def latent_height(self) -> int:
    return self.height // self.spatial_compression

  @property
  def latent_width(self) -> int:
    return self.width // self.spatial_compression

  def table(self) -> list[tuple[str, str]]:
    """Rows (quantity, value) to print."""
    return [
      ('video', f'{self.frames} frames at {self.fps} fps'),
      ('pixels', f'{self.height} x {self.width}'),
      (
        'latents',
        f'{self.latent_frames} x {self.latent_height} x {self.latent_width}',
      ),
      ('text tokens', f'{self.text_length:,}'),
    ]


def _check_whole(sizes: Geometry | FrameGeometry) -> None:
  """Raises ValueError for a size that is no positive whole number."""
  for field in dataclasses.fields(sizes):
    value = getattr(sizes, field.name)
    if not isinstance(value, (int, np.integer)) or value < 1:
      raise ValueError(
        f'geometry.{field.name} is {value!r}; it must be a positive whole'
        ' number'
      )


def _check_pixels(sizes: Geometry | FrameGeometry, grain: int) -> None:
  """Raises ValueError for a side that `grain` pixels do not divide."""
  for name in ('height', 'width'):
    value = getattr(sizes, name)
    if value % grain:
      raise ValueError(
        f'{name} is {value} pixels; it must be a multiple of {grain}, for'
        f' example {max(grain, value // grain * grain)}'
      )
