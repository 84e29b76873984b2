"""Decodes a video once and keeps a few numbers of every frame."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from ttt_jax import storyboard as storyboard_lib
from ttt_jax.evaluation import frame_features
from ttt_jax.video import decode
from ttt_jax.video import picture

SHARPNESS_FPS = 4
CLIP_FPS = 8
_MAX_SIDE = 1280  # Pixels; larger frames are reduced first.
_THUMBNAIL = 120  # Pixels of the width.
_BATCH = 32  # Frames that wait for the CLIP.


@dataclasses.dataclass
class Frames:
  """Numbers of all frames of a video, in their order.

  Attributes:
    times: Seconds from the first frame [F].
    small: Reduced frames, YCbCr, uint8 [F, 64, 96, 3].
    sharp_times: Times of the measurements of sharpness [N].
    sharpness: Sharpness at these times [N].
    clip_times: Times of the frames that the CLIP embedded [M].
    clip_vectors: Their unit vectors [M, J]; None without a CLIP.
    thumbnails: Small pictures from the middle of every three seconds, uint8
      [h, w, 3].
  """

  times: np.ndarray
  small: np.ndarray
  sharp_times: np.ndarray
  sharpness: np.ndarray
  clip_times: np.ndarray
  clip_vectors: np.ndarray | None
  thumbnails: list[np.ndarray]

  @property
  def spacing(self) -> float:
    """Median of the seconds from a frame to the next one."""
    return float(np.median(np.diff(self.times)))

  @property
  def seconds(self) -> float:
    """Duration."""
    return float(self.times[-1] - self.times[0] + self.spacing)


def read(path: str | os.PathLike[str], clip: Any = None) -> Frames:
  """Decodes a video.

  Args:
    path: Path of a video file.
    clip: `clip_score.CLIPScore`, or None.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a video, is damaged, or has a single frame.
  """
  path = pathlib.Path(path)
  first = next(decode.frames(path), None)
  if first is None:
    raise ValueError(f'{path} has no frame that can be decoded')
  size = picture.displayed_size(first)
  scale = min(1.0, _MAX_SIDE / max(size))
  height, width = (max(1, round(n * scale)) for n in size)
  convert = picture.Converter(path, height, width, soften=False)
  source = picture.progressive(decode.frames(path))
  frames = collect(((float(t.time), convert(t)) for t in source), clip)
  if len(frames.times) < 2:
    raise ValueError(f'{path} has one frame only; a video needs 2 or more')
  return frames


def collect(
  source: Iterable[tuple[float, np.ndarray]], clip: Any = None
) -> Frames:
  """Returns the numbers of frames, uint8 [H, W, 3], with their times."""
  times, small, thumbnails = [], [], []
  sharp: list[tuple[float, float]] = []
  embedded: list[float] = []
  pending: list[np.ndarray] = []
  vectors: list[np.ndarray] = []
  pixels = None
  for time, pixels in source:
    times.append(time)
    small.append(frame_features.reduce(pixels))
    if _is_due(time, len(sharp) / SHARPNESS_FPS):
      sharp.append((time, frame_features.sharpness(pixels)))
    middle = (len(thumbnails) + 0.5) * storyboard_lib.SEGMENT_SECONDS
    if _is_due(time, middle):
      thumbnails.append(_thumbnail(pixels))
    if clip is not None and _is_due(time, len(embedded) / CLIP_FPS):
      embedded.append(time)
      pending.append(pixels)
      if len(pending) == _BATCH:
        vectors.append(clip.embed(np.stack(pending)))
        pending.clear()
  if pending:
    vectors.append(clip.embed(np.stack(pending)))
  if pixels is not None and not thumbnails:
    thumbnails.append(_thumbnail(pixels))
  return Frames(
    np.array(times),
    np.array(small),
    np.array([t for t, _ in sharp]),
    np.array([s for _, s in sharp]),
    np.array(embedded),
    np.concatenate(vectors) if vectors else None,
    thumbnails,
  )


def _is_due(time: float, next_time: float) -> bool:
  return time >= next_time - 1e-6


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
  height = max(1, round(pixels.shape[0] * _THUMBNAIL / pixels.shape[1]))
  return np.asarray(Image.fromarray(pixels).resize((_THUMBNAIL, height)))
