"""Storage order of a sequence's tokens, and the order in which TTT scans them.

The model keeps its tokens in storage order. With `n` latent frames per segment
it is:

    [frame 0][text 0][frames 1..n][text 1][frames n+1..2n] ...
    `------- window 0 -----------'
                     [frame n][text 1][frames n+1..2n]
                     `--------- window 1 -------------'

The attention window of segment `i` (the frame that it shares with the previous
segment, its text, its own frames) is then one contiguous slice. The TTT layers
scan `[text 0][frames 0..n][text 1][frames n+1..2n]...`. This scan order differs
from the storage order only in the positions of frame 0 and text 0.

All arrays are plain numpy on the host: permutations enter jitted code as
constants.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class TokenOrder:
  """Token counts of a sequence, its storage order and its scan orders.

  Attributes:
    segments: Number of segments, S.
    segment_latent_frames: Latent frames per segment, n.
    rows: Token rows per frame.
    columns: Token columns per frame.
    text_length: Text tokens per segment, L.

  Example:
    >>> order = TokenOrder(
    ...   segments=2, segment_latent_frames=2, rows=1, columns=1, text_length=1
    ... )
    >>> order.video_index.ravel().tolist(), order.text_index.ravel().tolist()
    ([0, 2, 3, 5, 6], [1, 4])
    >>> order.reverse_order.tolist()
    [4, 6, 5, 3, 1, 2, 0]
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
    """Tokens from the start of one window to the start of the next."""
    return self.text_length + self.segment_latent_frames * self.tokens_per_frame

  @property
  def window(self) -> int:
    """Tokens of an attention window: shared frame, text, own frames."""
    return self.stride + self.tokens_per_frame

  @property
  def length(self) -> int:
    """Tokens of the sequence, T."""
    return self.segments * self.stride + self.tokens_per_frame

  @functools.cached_property
  def text_index(self) -> np.ndarray:
    """Storage indices of the text tokens, [S, L]."""
    start = self.tokens_per_frame + self.stride * np.arange(self.segments)
    return start[:, None] + np.arange(self.text_length)

  @functools.cached_property
  def video_index(self) -> np.ndarray:
    """Storage indices of the video tokens, [F, P]."""
    first = self.tokens_per_frame + self.text_length
    frame = np.arange(self.segment_latent_frames) * self.tokens_per_frame
    starts = first + self.stride * np.arange(self.segments)[:, None] + frame
    starts = np.concatenate([[0], starts.ravel()])
    return starts[:, None] + np.arange(self.tokens_per_frame)

  @functools.cached_property
  def is_text(self) -> np.ndarray:
    """Mask of the text tokens in storage order, bool [T]."""
    mask = np.zeros(self.length, bool)
    mask[self.text_index.ravel()] = True
    return mask

  def is_text_padded(self, length: int) -> np.ndarray:
    """Returns `is_text` with False for padding tokens, bool [length]."""
    return np.pad(self.is_text, (0, length - self.length))

  def _interleave(self, text: np.ndarray, video: np.ndarray) -> np.ndarray:
    """Concatenates [text 0, first n + 1 frames, text 1, next n frames, ...].

    Args:
      text: One integer per text token, [S, L].
      video: One integer per video token, F P of them in any shape.

    Returns:
      int32 [T].
    """
    frames = video.reshape(self.latent_frames, self.tokens_per_frame)
    ends = 1 + self.segment_latent_frames * np.arange(1, self.segments + 1)
    parts = np.split(frames, ends[:-1])
    return np.concatenate(
      [np.concatenate([t, v.ravel()]) for t, v in zip(text, parts)]
    ).astype(np.int32)

  @functools.cached_property
  def forward_order(self) -> np.ndarray:
    """Storage index of the i-th token of the forward scan, int32 [T]."""
    return self._interleave(self.text_index, self.video_index)

  @functools.cached_property
  def reverse_order(self) -> np.ndarray:
    """Storage index of the i-th token of the reverse scan, int32 [T].

    Video tokens are reversed in time, rows and columns. The segments' texts
    follow in reverse order of the segments; each text itself is scanned
    forwards, before its video. The n + 1 frames after the first text are
    therefore the last n + 1 frames of the video, as in the paper's code.
    """
    return self._interleave(
      self.text_index[::-1], self.video_index.ravel()[::-1]
    )

  @functools.cached_property
  def ttt_positions(self) -> np.ndarray:
    """Positions (time, row, column) of the i-th token scanned, int32 [T, 3].

    Text has position -1. Positions count scanned tokens, so both directions
    share them: the reverse scan starts at (0, 0, 0) with the last token of the
    last frame.
    """
    positions = np.full((self.length, 3), -1, np.int32)
    text = np.zeros_like(self.text_index) - 1
    video = np.arange(self.latent_frames * self.tokens_per_frame)
    index = self._interleave(text, video)
    is_video = index >= 0
    positions[is_video] = np.stack(
      np.unravel_index(
        index[is_video], (self.latent_frames, self.rows, self.columns)
      ),
      axis=-1,
    )
    return positions

  @functools.cached_property
  def window_positions(self) -> np.ndarray:
    """Positions (time, row, column) in an attention window, int32 [window, 3].

    Text has position -1. Time restarts at 0 with the shared frame of every
    window.
    """
    single = dataclasses.replace(self, segments=1)
    positions = np.full((self.window, 3), -1, np.int32)
    video = single.video_index.ravel()
    positions[video] = np.stack(
      np.unravel_index(
        np.arange(video.size),
        (single.latent_frames, self.rows, self.columns),
      ),
      axis=-1,
    )
    return positions
