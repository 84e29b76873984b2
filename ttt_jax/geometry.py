"""How a video of a given length becomes one token sequence.

Everything here is plain numpy on the host: sizes are checked once, before
any device is touched, and the permutations enter jitted code as constants.

Storage order, the order in which the model keeps its tokens, with `P` tokens
a frame, `L` text tokens a segment and `n` latent frames a segment:

    [frame 0][text 0][frames 1..n][text 1][frames n+1..2n] ...
    `------- window 0 -----------'
                     [frame n][text 1][frames n+1..2n]
                     `--------- window 1 -------------'

The attention window of segment `i` (the frame it shares with the segment
before, its text, its own frames) is then one contiguous slice. The TTT layers
read `[text 0][frames 0..n][text 1][frames n+1..2n]...`, which differs from
the storage order only in the places of frame 0 and text 0.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

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
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(
            f'geometry.{field.name} is {value!r}; it must be a positive whole'
            ' number'
        )
    grain = self.spatial_compression * self.patch_size
    for name in ('height', 'width'):
      value = getattr(self, name)
      if value % grain:
        raise ValueError(
            f'{name} is {value} pixels; it must be a multiple of {grain}, for'
            f' example {max(grain, value // grain * grain)}'
        )
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
    unit = (
        defaults['segment_latent_frames'] * defaults['temporal_compression']
    )
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
  def order(self) -> TokenOrder:
    rows, columns = self.grid
    return TokenOrder(
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
            f'{self.latent_frames} x {self.latent_height} x'
            f' {self.latent_width}',
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
class TokenOrder:
  """Where each token of a sequence sits, and in which order TTT reads them.

  Attributes:
    segments: S.
    segment_latent_frames: n.
    rows: token rows of a frame.
    columns: token columns of a frame.
    text_length: L.
  """

  segments: int
  segment_latent_frames: int
  rows: int
  columns: int
  text_length: int

  @property
  def tokens_per_frame(self) -> int:
    return self.rows * self.columns

  @property
  def latent_frames(self) -> int:
    return self.segments * self.segment_latent_frames + 1

  @property
  def stride(self) -> int:
    """Tokens from one segment's window to the next one's."""
    return (
        self.text_length + self.segment_latent_frames * self.tokens_per_frame
    )

  @property
  def window(self) -> int:
    """Tokens of an attention window: shared frame, text, own frames."""
    return self.stride + self.tokens_per_frame

  @property
  def length(self) -> int:
    """T."""
    return self.segments * self.stride + self.tokens_per_frame

  @functools.cached_property
  def text_index(self) -> np.ndarray:
    """[S, L] storage places of the text tokens."""
    start = self.tokens_per_frame + self.stride * np.arange(self.segments)
    return start[:, None] + np.arange(self.text_length)

  @functools.cached_property
  def video_index(self) -> np.ndarray:
    """[F, P] storage places of the video tokens."""
    own = self.tokens_per_frame + self.text_length
    frame = np.arange(self.segment_latent_frames) * self.tokens_per_frame
    starts = own + self.stride * np.arange(self.segments)[:, None] + frame
    starts = np.concatenate([[0], starts.ravel()])
    return starts[:, None] + np.arange(self.tokens_per_frame)

  @functools.cached_property
  def is_text(self) -> np.ndarray:
    """[T] bool, in storage order."""
    mask = np.zeros(self.length, bool)
    mask[self.text_index.ravel()] = True
    return mask

  def _interleave(self, text: np.ndarray, video: np.ndarray) -> np.ndarray:
    """[text 0, first n+1 frames, text 1, next n frames, ...] -> [T]."""
    frames = video.reshape(self.latent_frames, self.tokens_per_frame)
    ends = 1 + self.segment_latent_frames * np.arange(1, self.segments + 1)
    parts = np.split(frames, ends[:-1])
    return np.concatenate(
        [np.concatenate([t, v.ravel()]) for t, v in zip(text, parts)]
    ).astype(np.int32)

  @functools.cached_property
  def forward(self) -> np.ndarray:
    """[T] storage place of the i-th token that the forward pass reads."""
    return self._interleave(self.text_index, self.video_index)

  @functools.cached_property
  def reverse(self) -> np.ndarray:
    """[T] the same for the reversed pass.

    Video tokens run backwards in time, rows and columns; the segments' texts
    come last segment first, each read forwards and before its video. The
    n + 1 frames that follow the first text are then the LAST n + 1 frames of
    the video, as in the paper's code.
    """
    return self._interleave(
        self.text_index[::-1], self.video_index.ravel()[::-1]
    )

  @functools.cached_property
  def ttt_positions(self) -> np.ndarray:
    """[T, 3] (time, row, column) of the i-th token read, -1 for text.

    Positions count what has been read, so they are those of both directions:
    the reversed pass starts at (0, 0, 0) with the last frame's last token.
    """
    places = np.full((self.length, 3), -1, np.int32)
    text = np.zeros_like(self.text_index) - 1
    video = np.arange(self.latent_frames * self.tokens_per_frame)
    index = self._interleave(text, video)
    seen = index >= 0
    places[seen] = np.stack(
        np.unravel_index(
            index[seen], (self.latent_frames, self.rows, self.columns)
        ),
        axis=-1,
    )
    return places

  @functools.cached_property
  def window_positions(self) -> np.ndarray:
    """[window, 3] positions inside an attention window, -1 for text.

    Time restarts at 0 with the shared frame of every window.
    """
    one = dataclasses.replace(self, segments=1)
    places = np.full((self.window, 3), -1, np.int32)
    video = one.video_index.ravel()
    places[video] = np.stack(
        np.unravel_index(
            np.arange(video.size),
            (one.latent_frames, self.rows, self.columns),
        ),
        axis=-1,
    )
    return places


def inverse(permutation: np.ndarray) -> np.ndarray:
  """The permutation that undoes `permutation`."""
  out = np.empty_like(permutation)
  out[permutation] = np.arange(permutation.size, dtype=permutation.dtype)
  return out
