"""Videos as arrays that can be saved, and that notebooks show."""

from __future__ import annotations

import base64
from collections.abc import Mapping
import html
import io
import os
import pathlib
import tempfile
from typing import Any

import numpy as np
from PIL import Image

from ttt_jax.runtime import wording
from ttt_jax.video import contact_sheet
from ttt_jax.video import video_file

# A page shows the film up to these sizes, else a contact sheet.
_MAX_PIXELS = 2**26
_MAX_BYTES = 4 * 2**20
_SHEET_FRAMES = 24
_SHEET_WIDTH = 240  # pixels of its frames, at most
_PAGE_WIDTH = 480  # Pixels at which a page shows a film, at least; double if
# it shows several side by side.


class Video(np.ndarray):
  """An array of frames with their frame rate.

  It is an `np.ndarray` in every respect. Slices of a video are videos; results
  of arithmetic are plain arrays.

  Attributes:
    fps: Frames per second.

  Example:
    >>> video = Video(np.zeros((49, 32, 48, 3), np.uint8), fps=16)
    >>> video
    <49 frames, 3.1 s at 16 fps, 48x32 pixels>
    >>> video[:16].seconds
    1.0
  """

  fps: float

  def __new__(cls, frames: Any, fps: float) -> Video:
    """Returns frames as a video, without copying an array.

    Args:
      frames: One video, uint8 [F, H, W, 3], or n videos of the same size,
        [n, F, H, W, 3].
      fps: Frames per second.

    Raises:
      ValueError: the frames have another dtype or shape, or `fps` is not
        positive.
    """
    array = np.asarray(frames)
    if not _is_video(array):
      raise ValueError(
        f'frames are {array.dtype} {list(array.shape)}; they must be uint8'
        ' [F, H, W, 3] or [n, F, H, W, 3]'
      )
    if not 0 < fps <= 1000:
      raise ValueError(
        f'fps is {fps}; it must be above 0 and at most 1000, for example 16'
      )
    video = array.view(cls)
    video.fps = fps
    return video

  def __array_finalize__(self, source: Any) -> None:
    self.fps = getattr(source, 'fps', 16)

  def __array_wrap__(
    self, array: Any, context: Any = None, return_scalar: bool = False, /
  ) -> Any:
    plain = np.asarray(array)
    return plain[()] if return_scalar else plain

  def __reduce__(self):
    return _restore, (np.asarray(self), self.fps)

  @property
  def seconds(self) -> float:
    """The duration of the video, or of each one."""
    return self.shape[-4] / self.fps

  def save(
    self,
    path: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
  ) -> None:
    """Writes an MP4, or a GIF if the path ends in .gif; completely or not.

    Several videos become one, side by side.

    Args:
      path: Path of the file; replaced if it exists.
      settings: JSON values of the video's making, stored in an MP4.

    Raises:
      ValueError: another ending, frames of an odd size, an array that is not a
        video anymore, or a file that cannot be written.
      FileNotFoundError: the folder does not exist.
    """
    if not _is_video(self):
      raise ValueError(
        f'the array is {self.dtype} {list(self.shape)} and no video anymore;'
        ' save uint8 [F, H, W, 3]'
      )
    path = pathlib.Path(path)
    if path.suffix == '.gif':
      contact_sheet.write_gif(path, self._one(), self.fps)
    elif path.suffix == '.mp4':
      video_file.write_video(path, self._one(), self.fps, settings=settings)
    else:
      raise ValueError(f'{path} must end in .mp4 or .gif')

  def _one(self) -> np.ndarray:
    """The video, or all of them side by side: [F, H, W, 3]."""
    frames = np.asarray(self)
    if frames.ndim == 4:
      return frames
    return contact_sheet.side_by_side(frames[0], frames[1:])

  def __repr__(self) -> str:
    if not _is_video(self):
      return super().__repr__()
    several = ''
    if self.ndim == 5:
      several = wording.count(len(self), 'video', 'of ') + ' '
    return f'<{several}{_describe(np.asarray(self), self.fps)}>'

  def _repr_html_(self) -> str | None:
    """HTML of the film, or a contact sheet if it is long; for notebooks."""
    if not _is_video(self):
      return None  # The text of the array is shown.
    frames = self._one()
    height, width = frames.shape[1:3]
    facts = _describe(frames, self.fps)
    film = None
    if frames.size <= 3 * _MAX_PIXELS and not (height % 2 or width % 2):
      film = _encode(frames, self.fps)
    page_width = max(width, _PAGE_WIDTH * (self.ndim - 3))
    if film is not None and len(film) <= _MAX_BYTES:
      media = (
        f'<video controls loop muted playsinline preload="auto"'
        f' width="{page_width}" style="max-width:100%"'
        f' src="{_data_uri("video/mp4", film)}"></video>'
      )
    else:
      sheet = _data_uri('image/jpeg', _sheet(frames, self.fps))
      media = f'<img alt="{html.escape(facts)}" src="{sheet}"'
      media += ' style="max-width:100%">'
      facts += '; save it to see it move: .save("video.mp4")'
    return (
      f'<figure style="margin:0">{media}'
      f'<figcaption>{html.escape(facts)}</figcaption></figure>'
    )


def _is_video(array: np.ndarray) -> bool:
  return (
    array.dtype == np.uint8
    and array.ndim in (4, 5)
    and array.shape[-1] == 3
    and array.size > 0
  )


def _describe(frames: np.ndarray, fps: float) -> str:
  count, height, width = frames.shape[-4:-1]
  seconds = f'{count / fps:.1f} s at {fps:g} fps'
  return f'{count} frames, {seconds}, {width}x{height} pixels'


def _restore(frames: np.ndarray, fps: float) -> Video:
  """Restores a pickled video of any shape."""
  video = frames.view(Video)
  video.fps = fps
  return video


def _encode(frames: np.ndarray, fps: float) -> bytes:
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'video.mp4')
    video_file.write_video(path, frames, fps)
    return path.read_bytes()


def _sheet(frames: np.ndarray, fps: float) -> bytes:
  """Returns a JPEG of frames at equal distances, with their times."""
  count = min(_SHEET_FRAMES, len(frames))
  chosen = (np.arange(count) + 0.5) * len(frames) / count
  height, width = frames.shape[1:3]
  tile = min(width, _SHEET_WIDTH)
  size = (tile, max(1, round(height * tile / width)))
  tiles = [
    np.asarray(Image.fromarray(frames[int(i)]).resize(size)) for i in chosen
  ]
  labels = [f'{int(i) / fps:.1f} s' for i in chosen]
  content = io.BytesIO()
  picture = contact_sheet.draw_contact_sheet(np.stack(tiles), labels=labels)
  picture.save(content, 'JPEG', quality=85)
  return content.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
  return f'data:{kind};base64,{base64.b64encode(content).decode()}'
