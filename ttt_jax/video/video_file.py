"""Reads a part of a video at any frame rate and size; writes videos."""

from __future__ import annotations

from collections.abc import Generator, Iterator
import contextlib
import dataclasses
import fractions
import math
import os
import pathlib

import av
import numpy as np

from ttt_jax.runtime import files
from ttt_jax.video import resize

# 8 pixels per latent cell, 2 cells per patch.
_SIZE_STEP = 16


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """The header of a file's first video stream.

  Attributes:
    width: Width in stored pixels.
    height: Height in stored pixels.
    fps: Average frames per second.
    seconds: Duration; 0 if the file does not contain it.
    frames: Number of frames; estimated if the file does not contain it.
  """

  width: int
  height: int
  fps: float
  seconds: float
  frames: int


def probe(path: str | os.PathLike[str]) -> VideoInfo:
  """Reads the header of a video; raises as `read_video` does."""
  with _open(path) as (container, stream):
    fps = float(stream.average_rate or 0)
    if stream.duration is not None:
      seconds = float(stream.duration * stream.time_base)
    else:
      seconds = (container.duration or 0) / av.time_base
    return VideoInfo(
      width=stream.width,
      height=stream.height,
      fps=fps,
      seconds=seconds,
      frames=stream.frames or round(seconds * fps),
    )


def read_video(
  path: str | os.PathLike[str],
  *,
  fps: float = 16,
  height: int,
  width: int,
  start: float = 0.0,
  frames: int | None = None,
  soften: bool = True,
) -> np.ndarray:
  """Reads a part of a video.

  Frame j is the source frame whose timestamp is nearest to `start + j / fps`;
  a rest shorter than 1 / fps is dropped, so 5.28 s at 16 fps are 84 frames. A
  frame is rotated and stretched by the metadata of the file (phone videos,
  pixels that are not square), resized with a Lanczos filter until it covers
  the size, and cropped to its centre.

  The file is decoded frame by frame, and only resized frames are kept.

  Args:
    path: Path of the video.
    fps: Frames per second of the result.
    height: Height in pixels, a multiple of 16.
    width: Width in pixels, a multiple of 16.
    start: Seconds from the first frame.
    frames: Number of frames; None reads to the end.
    soften: Whether to filter with (1, 2, 1) / 4 along both axes after
      resizing. The result has less detail than its pixels could hold, but a
      small VAE can reconstruct it.

  Returns:
    uint8 [n, height, width, 3].

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: a size is not a multiple of 16; the file is not a video, is
      damaged, has a single frame, has too few frames per second for `fps`, or
      ends too early (the message has the number of frames).
  """
  for name, value in (('height', height), ('width', width)):
    if value < _SIZE_STEP or value % _SIZE_STEP:
      nearest = max(_SIZE_STEP, round(value / _SIZE_STEP) * _SIZE_STEP)
      raise ValueError(
        f'{name} is {value}; it must be a multiple of {_SIZE_STEP}, for'
        f' example {nearest}'
      )
  if not 0 < fps < math.inf:
    raise ValueError(f'fps is {fps}; it must be above 0, for example 16')
  if not 0 <= start < math.inf:
    raise ValueError(f'start is {start}; it must be 0 or more seconds')
  if frames is not None and frames < 1:
    raise ValueError(f'frames is {frames}; it must be 1 or more')

  period = 1 / fractions.Fraction(fps).limit_denominator(100_000)
  # 3.2 becomes 16/5: the rounding of a float must not drop the last frame.
  begin = fractions.Fraction(start).limit_denominator(1_000_000)
  out = []
  with _open(path) as (container, stream):
    rate = stream.average_rate
    if rate and 2 * rate * period < 1:
      raise ValueError(
        f'{path} has {float(rate):g} frames per second; at least'
        f' {float(1 / period) / 2:g} are needed for {fps:g}, or frames would'
        ' repeat more than twice'
      )
    previous, previous_time, end = None, fractions.Fraction(), begin
    for time, duration, frame in _decode(path, container, stream, begin):
      # Every output time up to the middle between two frames is the first's.
      while (
        previous is not None
        and begin + len(out) * period <= (previous_time + time) / 2
      ):
        out.append(_resize(previous, stream, height, width, soften))
        if len(out) == frames:
          return np.stack(out)
      if not duration:
        duration = 0 if previous is None else time - previous_time
      previous, previous_time, end = frame, time, time + duration
    if previous is None:
      raise ValueError(f'{path} has no frame that can be decoded')
    if previous_time == 0:
      raise ValueError(f'{path} has one frame only; a video needs 2 or more')
    available = max(0, math.floor((end - begin) / period))
    if available == 0:
      raise ValueError(
        f'start is {start:g} s, beyond the end of {path}; it lasts'
        f' {float(end):.2f} s'
      )
    if frames is not None and available < frames:
      raise ValueError(
        f'{path} has {available} frames at {fps:g} fps from {start:g} s on;'
        f' {frames} are needed'
      )
    while len(out) < available:
      out.append(_resize(previous, stream, height, width, soften))
  return np.stack(out[:available])


def write_video(
  path: str | os.PathLike[str], frames: np.ndarray, fps: float = 16
) -> None:
  """Writes an H.264 MP4 (yuv420p, CRF 18), completely or not at all.

  Args:
    path: Path that ends in .mp4; replaced if it exists.
    frames: Frames, uint8 [n, H, W, 3], H and W even.
    fps: Frames per second.

  Raises:
    ValueError: the frames have another dtype, shape or an odd size, or the
      file cannot be written.
    FileNotFoundError: the folder does not exist.
  """
  path = pathlib.Path(path)
  frames = np.asarray(frames)
  if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
    raise ValueError(
      f'frames are {frames.dtype} {list(frames.shape)}; they must be uint8'
      ' [n, H, W, 3]'
    )
  if not len(frames):
    raise ValueError('there are 0 frames; a video needs 1 or more')
  height, width = frames.shape[1:3]
  if height % 2 or width % 2:
    raise ValueError(
      f'frames are {height}x{width} pixels; H.264 with yuv420p needs even'
      f' sizes, for example {height + height % 2}x{width + width % 2}'
    )
  if path.suffix != '.mp4':
    raise ValueError(f'{path} must end in .mp4')
  with files.atomic_write(path) as temporary:
    try:
      _encode(temporary, frames, fps)
      # FFmpeg does not report every failed write, as on a full disk.
      is_complete = probe(temporary).frames == len(frames)
    except (av.FFmpegError, ValueError) as e:
      raise files.write_error(path, e) from e
    if not is_complete:
      raise ValueError(
        f'could not write {path} completely; free some space or choose another'
        ' folder'
      )


@contextlib.contextmanager
def _open(path) -> Generator[tuple]:
  """Opens a file; yields the container and its first video stream."""
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(f'there is no video {path}')
  try:
    container = av.open(os.fspath(path))
  except (av.FFmpegError, OSError) as e:
    raise ValueError(
      f'{path} cannot be read as a video: {files.first_line(e)}'
    ) from e
  with container:
    if not container.streams.video:
      raise ValueError(f'{path} has no video stream')
    stream = container.streams.video[0]
    stream.thread_type = 'AUTO'
    yield container, stream


def _decode(path, container, stream, begin) -> Iterator[tuple]:
  """Yields (seconds from the first frame, duration or None, frame).

  Starts at a key frame at or before `begin`.
  """
  base = stream.time_base
  first = stream.start_time
  is_first = False  # The first frame after a seek.
  try:
    if begin and first is not None:
      container.seek(first + math.floor(begin / base), stream=stream)
      is_first = True
    for frame in container.decode(stream):
      if frame.pts is None:
        raise ValueError(f'{path} has frames without a timestamp')
      first = frame.pts if first is None else first
      time = (frame.pts - first) * base
      if is_first and time > begin:
        # The index of the file is wrong: decode from the start instead.
        container.seek(first, stream=stream)
        yield from _decode(path, container, stream, 0)
        return
      is_first = False
      yield time, frame.duration * base if frame.duration else None, frame
  except av.FFmpegError as e:
    raise ValueError(f'{path} is damaged: {files.first_line(e)}') from e


def _resize(frame, stream, height, width, soften) -> np.ndarray:
  """Returns a decoded frame as uint8 [height, width, 3]."""
  return resize.resize_and_crop(
    frame.to_ndarray(format='rgb24'),
    height,
    width,
    pixel_aspect=float(stream.sample_aspect_ratio or 1),
    quarter_turns=round(frame.rotation / 90) % 4,
    soften=soften,
  )


def _encode(path: os.PathLike[str], frames: np.ndarray, fps: float) -> None:
  with av.open(
    str(path), 'w', format='mp4', options={'movflags': 'faststart'}
  ) as container:
    rate = fractions.Fraction(fps).limit_denominator(1001)
    stream = container.add_stream('libx264', rate, options={'crf': '18'})
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = 'yuv420p'
    for pixels in frames:
      frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
