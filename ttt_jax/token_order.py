"""Where each token of a sequence sits, and in which order TTT reads them.

Storage order, the order in which the model keeps its tokens, with `n` latent
frames a segment:

    [frame 0][text 0][frames 1..n][text 1][frames n+1..2n] ...
    `------- window 0 -----------'
                     [frame n][text 1][frames n+1..2n]
                     `--------- window 1 -------------'

The attention window of segment `i` (the frame it shares with the segment
before, its text, its own frames) is then one contiguous slice. The TTT layers
read `[text 0][frames 0..n][text 1][frames n+1..2n]...`, which differs from
the storage order only in the places of frame 0 and text 0.

Everything here is plain numpy on the host: permutations enter jitted code as
constants.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np


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
    return self.text_length + self.segment_latent_frames * self.tokens_per_frame

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

  def is_text_padded(self, length: int) -> np.ndarray:
    """[length] bool: `is_text`, False for what follows the sequence."""
    return np.pad(self.is_text, (0, length - self.length))

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
