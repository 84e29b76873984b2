"""Sizes of a video and of the token sequence that represents it.

Sizes are plain numbers on the host. They are checked once, before any device is
used. `ttt_jax.token_order` defines the order of the tokens.
"""

from __future__ import annotations

import dataclasses

import ml_collections
import numpy as np

from ttt_jax import token_order

_MOST_PIXELS = 2**14  # per side
MAX_SEGMENTS = 200


@dataclasses.dataclass(frozen=True)
class Geometry:
  """Sizes and token order of one video.

  Attributes:
    frames: Pixel frames, `temporal_compression * (latent_frames - 1) + 1`.
    height: Pixel rows, a multiple of `spatial_compression * patch_size`.
    width: Pixel columns, a multiple of the same.
    fps: Frames per second.
    text_length: Text tokens per segment, L; any positive number.
    mini_batch: Tokens that share one step of the TTT layers, C. The sequence
      may have any length: the last mini-batch is padded with tokens whose step
      size is zero.
    spatial_compression: Pixels per latent cell and side.
    temporal_compression: Pixel frames per latent frame after the first.
    patch_size: Latent cells per token and side.
    segment_latent_frames: Latent frames per segment, n. The paper has 12, which
      is 3 seconds at 16 frames per second.

  Example:
    >>> minute = Geometry.from_seconds(63, height=480, width=720)
    >>> minute.frames, minute.segments, minute.sequence_length
    (1009, 21, 346296)
    >>> minute.mini_batches * minute.mini_batch == minute.padded_length
    True
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
    _check_sizes(self, self.spatial_compression * self.patch_size)
    unit = self.segment_latent_frames * self.temporal_compression
    if (self.frames - 1) % unit or self.frames == 1:
      valid = max(1, round((self.frames - 1) / unit)) * unit + 1
      raise ValueError(
        f'{self.frames} frames are not a number of complete segments; it must'
        f' be a multiple of {unit} plus 1, for example {valid}'
      )
    if self.segments > MAX_SEGMENTS:
      raise ValueError(
        f'{self.segments} segments; at most {MAX_SEGMENTS} are supported'
      )

  @classmethod
  def from_seconds(
    cls, seconds: float, height: int, width: int, fps: int = 16, **sizes: int
  ) -> Geometry:
    """Returns the geometry of a video of `seconds`.

    Args:
      seconds: Length, a multiple of a segment's, for example 3, 9 or 63.
      height: Pixel rows.
      width: Pixel columns.
      fps: Frames per second.
      **sizes: Other fields of the class.

    Raises:
      ValueError: the length is not a number of complete segments, or a size
        does not divide; the message names a valid value.
    """
    latent_frames = sizes.get(
      'segment_latent_frames', cls.segment_latent_frames
    )
    compression = sizes.get('temporal_compression', cls.temporal_compression)
    unit = latent_frames * compression
    if unit < 1 or fps < 1:
      raise ValueError(f'fps is {fps}; it must be 1 or more, for example 16')
    segments = seconds * fps / unit
    if segments < 1 or segments != int(segments):
      segment_seconds = unit / fps
      valid = max(1, round(segments)) * segment_seconds
      raise ValueError(
        f'{seconds:.10g} seconds are not a number of complete segments; the'
        f' length must be a multiple of {segment_seconds:g} s, for example'
        f' {valid:.10g}'
      )
    return cls(
      frames=int(segments) * unit + 1,
      height=height,
      width=width,
      fps=fps,
      **sizes,
    )

  @classmethod
  def from_config(cls, config: ml_collections.ConfigDict) -> Geometry:
    """Returns the geometry of a stage's clips.

    Args:
      config: Training config; its `data`, `text` and `model` define the sizes.
    """
    model = {
      name: config.model[name]
      for name in ('mini_batch', 'patch_size', 'segment_latent_frames')
      if name in config.model
    }
    compression = config.data.get(
      'spatial_compression', cls.spatial_compression
    )
    return cls.from_seconds(
      config.data.seconds,
      config.data.height,
      config.data.width,
      config.data.fps,
      text_length=config.text.length,
      spatial_compression=compression,
      **model,
    )

  @property
  def latent_frames(self) -> int:
    """Latent frames, F."""
    return (self.frames - 1) // self.temporal_compression + 1

  @property
  def segments(self) -> int:
    """Number of segments, S."""
    return (self.latent_frames - 1) // self.segment_latent_frames

  @property
  def latent_height(self) -> int:
    return self.height // self.spatial_compression

  @property
  def latent_width(self) -> int:
    return self.width // self.spatial_compression

  @property
  def grid(self) -> tuple[int, int]:
    """Token rows and columns per frame."""
    return (
      self.latent_height // self.patch_size,
      self.latent_width // self.patch_size,
    )

  @property
  def order(self) -> token_order.TokenOrder:
    """Order of the video's tokens."""
    rows, columns = self.grid
    return token_order.TokenOrder(
      segments=self.segments,
      segment_latent_frames=self.segment_latent_frames,
      rows=rows,
      columns=columns,
      text_length=self.text_length,
    )

  @property
  def tokens_per_frame(self) -> int:
    """Tokens per frame, P."""
    return self.order.tokens_per_frame

  @property
  def sequence_length(self) -> int:
    """Tokens of the sequence, T."""
    return self.order.length

  @property
  def mini_batches(self) -> int:
    """Number of mini-batches, N."""
    return -(-self.sequence_length // self.mini_batch)

  @property
  def padded_length(self) -> int:
    """Tokens that the TTT layers scan: T and the padding after them."""
    return self.mini_batches * self.mini_batch

  def table(self) -> list[tuple[str, str]]:
    """Returns rows (quantity, value) to print."""
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
        'tokens per frame',
        f'{self.tokens_per_frame:,} ({rows} x {columns})',
      ),
      ('text tokens per segment', f'{self.text_length:,}'),
      ('attention window', f'{self.order.window:,} tokens'),
      ('sequence', f'{self.sequence_length:,} tokens'),
    ]


@dataclasses.dataclass(frozen=True)
class FrameGeometry:
  """Sizes of a video for the U-Net, which encodes each frame on its own.

  Attributes:
    frames: Pixel frames and latent frames, F.
    height: Pixel rows, a multiple of `spatial_compression`.
    width: Pixel columns, a multiple of the same.
    fps: Frames per second.
    text_length: Text tokens of the clip, L.
    spatial_compression: Pixels per latent cell and side.
  """

  frames: int
  height: int
  width: int
  fps: int
  text_length: int
  spatial_compression: int = 8

  # The clip has one text, and no layer scans it in mini-batches.
  segments = 1
  mini_batch = 1

  def __post_init__(self):
    _check_sizes(self, self.spatial_compression)

  @classmethod
  def from_config(cls, config: ml_collections.ConfigDict) -> FrameGeometry:
    """Returns the geometry of a config's clips.

    Args:
      config: Training config; its `data` and `text` define the sizes.
    """
    data = config.data
    return cls(
      frames=data.frames,
      height=data.height,
      width=data.width,
      fps=data.fps,
      text_length=config.text.length,
      spatial_compression=data.get(
        'spatial_compression', cls.spatial_compression
      ),
    )

  @property
  def latent_frames(self) -> int:
    """Latent frames, F."""
    return self.frames

  @property
  def latent_height(self) -> int:
    return self.height // self.spatial_compression

  @property
  def latent_width(self) -> int:
    return self.width // self.spatial_compression

  def table(self) -> list[tuple[str, str]]:
    """Returns rows (quantity, value) to print."""
    return [
      ('video', f'{self.frames} frames at {self.fps} fps'),
      ('pixels', f'{self.height} x {self.width}'),
      (
        'latents',
        f'{self.latent_frames} x {self.latent_height} x {self.latent_width}',
      ),
      ('text tokens', f'{self.text_length:,}'),
    ]


def _check_sizes(sizes: Geometry | FrameGeometry, multiple: int) -> None:
  """Raises ValueError for a size that is not possible.

  Args:
    sizes: Sizes to check.
    multiple: Number of pixels that must divide height and width.
  """
  for field in dataclasses.fields(sizes):
    value = getattr(sizes, field.name)
    if not isinstance(value, (int, np.integer)) or value < 1:
      raise ValueError(
        f'geometry.{field.name} is {value!r}; it must be a positive integer'
      )
  for name in ('height', 'width'):
    value = getattr(sizes, name)
    if value > _MOST_PIXELS:
      raise ValueError(
        f'{name} is {value} pixels; at most {_MOST_PIXELS} are possible'
      )
    if value % multiple:
      raise ValueError(
        f'{name} is {value} pixels; it must be a multiple of {multiple}, for'
        f' example {max(multiple, value // multiple * multiple)}'
      )
