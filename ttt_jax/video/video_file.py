"""Videos: read a stretch at any frame rate and size; write."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import fractions
import math
import os
import pathlib

import av
import numpy as np

from ttt_jax.video import resize
from ttt_jax.video.contact_sheet import contact_sheet
from ttt_jax.video.contact_sheet import segment_frames

__all__ = [
  'VideoInfo',
  'contact_sheet',
  'probe',
  'read_video',
  'segment_frames',
  'write_video',
]

# 8 pixels a latent cell, 2 cells a patch.
_SIZE_STEP = 16


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """What a file says of its first video stream.

  Attributes:
    width: pixels as stored.
    height: pixels as stored.
    fps: frames a second, the average.
    seconds: duration.
    frames: how many, an estimate where the file does not say.
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
      stream.width,
      stream.height,
      fps,
      seconds,
      stream.frames or round(seconds * fps),
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
  """Reads a stretch of a video.

  In time: frame j is the source frame whose timestamp is nearest to
  `start + j / fps`; whole steps of 1 / fps only, so 5.28 s at 16 fps are 84
  frames. In space: rotated and stretched as the file says (phone videos,
  pixels that are not square), resized with a Lanczos filter until it covers
  the picture, then the centre is cut out.

  The file is decoded frame by frame and only the small frames are kept.

  Args:
    path: of the video.
    fps: frames a second of the result.
    height: pixels, a multiple of 16.
    width: pixels, a multiple of 16.
    start: seconds from the first frame.
    frames: how many; None reads to the end.
    soften: blur with (1, 2, 1) / 4 along both axes after the resize. The
      result has fewer details than its pixels could hold, but a small VAE
      keeps them.

  Returns:
    uint8 [n, height, width, 3].

  Raises:
    FileNotFoundError: no such file.
    ValueError: a size that is no multiple of 16; a file that is no video, is
      damaged, has one frame only, has too few frames a second for `fps`, or
      does not reach far enough (with the number of frames that there are).
  """
  for name, value in (('height', height), ('width', width)):
    if value < _SIZE_STEP or value % _SIZE_STEP:
      legal = max(_SIZE_STEP, round(value / _SIZE_STEP) * _SIZE_STEP)
      raise ValueError(
        f'{name} is {value}; it must be a multiple of {_SIZE_STEP}, for'
        f' example {legal}'
      )
  if not 0 < fps < math.inf:
    raise ValueError(f'fps is {fps}; it must be above 0, for example 16')
  if not 0 <= start < math.inf:
    raise ValueError(f'start is {start}; it must be 0 or more seconds')
  if frames is not None and frames < 1:
    raise ValueError(f'frames is {frames}; it must be 1 or more')

  period = 1 / fractions.Fraction(fps).limit_denominator(100_000)
  # 3.2 as 16/5: the rounding of a float must not cost the last frame.
  begin = fractions.Fraction(start).limit_denominator(1_000_000)
  out = []
  with _open(path) as (container, stream):
    rate = stream.average_rate
    if rate and 2 * rate * period < 1:
      raise ValueError(
        f'{path} has {float(rate):g} frames a second; at least'
        f' {float(1 / period) / 2:g} are needed for {fps:g}, else each frame'
        ' shows more than twice'
      )
    before, at, end = None, None, None
    for time, duration, frame in _decode(path, container, stream, begin):
      # All wanted times up to the middle between two frames show the first.
      while before is not None and begin + len(out) * period <= (at + time) / 2:
        out.append(_shape(before, stream, height, width, soften))
        if len(out) == frames:
          return np.stack(out)
      duration = duration or (time - at if before is not None else 0)
      before, at, end = frame, time, time + duration
    if before is None:
      raise ValueError(f'{path} has no frame that can be decoded')
    if at == 0:
      raise ValueError(f'{path} has one frame only; a video needs 2 or more')
    there = max(0, math.floor((end - begin) / period))
    if there == 0:
      raise ValueError(
        f'start is {start:g} s, beyond the end of {path}; it lasts'
        f' {float(end):.2f} s'
      )
    if frames is not None and there < frames:
      raise ValueError(
        f'{path} has {there} frames at {fps:g} fps from {start:g} s on;'
        f' {frames} are needed'
      )
    while len(out) < there:
      out.append(_shape(before, stream, height, width, soften))
  return np.stack(out[:there])


def write_video(
  path: str | os.PathLike[str], frames: np.ndarray, fps: float = 16
) -> None:
  """Writes an H.264 MP4 (yuv420p, CRF 18) whole or not at all.

  Args:
    path: ends in .mp4; replaced if it exists.
    frames: uint8 [n, H, W, 3], H and W even.
    fps: frames a second.

  Raises:
    ValueError: frames of another kind, or the file cannot be written.
    FileNotFoundError: there is no such folder.
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
  if not path.parent.is_dir():
    raise FileNotFoundError(f'there is no folder {path.parent} for {path.name}')
  part = path.with_name(f'.{path.name}.{os.getpid()}.part')
  try:
    _encode(part, frames, fps)
    # Some failures to write (a full disk) show only in what can be read.
    if probe(part).frames != len(frames):
      raise ValueError(f'{path} could not be written whole; is the disk full?')
    os.replace(part, path)
  except (av.FFmpegError, OSError) as e:
    raise ValueError(f'{path} could not be written: {_reason(e)}') from e
  finally:
    part.unlink(missing_ok=True)


@contextlib.contextmanager
def _open(path) -> Iterator[tuple]:
  """The container and its first video stream."""
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(f'there is no video {path}')
  try:
    container = av.open(os.fspath(path))
  except (av.FFmpegError, OSError) as e:
    raise ValueError(
      f'{path} is no video that can be read: {_reason(e)}'
    ) from e
  with container:
    if not container.streams.video:
      raise ValueError(f'{path} has no video stream')
    stream = container.streams.video[0]
    stream.thread_type = 'AUTO'
    yield container, stream


def _decode(path, container, stream, begin) -> Iterator[tuple]:
  """Yields (seconds from the first frame, duration or None, frame).

  Starts at or before the last key frame before `begin`.
  """
  base = stream.time_base
  first = stream.start_time
  jumped = False
  try:
    if begin and first is not None:
      container.seek(first + math.floor(begin / base), stream=stream)
      jumped = True
    for frame in container.decode(stream):
      if frame.pts is None:
        raise ValueError(f'{path} has frames without a timestamp')
      first = frame.pts if first is None else first
      time = (frame.pts - first) * base
      if jumped and time > begin:
        # The file's index is wrong: from the start, then.
        container.seek(first, stream=stream)
        yield from _decode(path, container, stream, 0)
        return
      jumped = False
      yield time, frame.duration * base if frame.duration else None, frame
  except av.FFmpegError as e:
    raise ValueError(f'{path} is damaged: {_reason(e)}') from e


def _shape(frame, stream, height, width, soften) -> np.ndarray:
  """uint8 [height, width, 3] of a decoded frame."""
  return resize.fit(
    frame.to_ndarray(format='rgb24'),
    height,
    width,
    pixel_aspect=float(stream.sample_aspect_ratio or 1),
    quarter_turns=round(frame.rotation / 90) % 4,
    soften=soften,
  )


def _encode(path: pathlib.Path, frames: np.ndarray, fps: float) -> None:
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


def _reason(error: Exception) -> str:
  return str(getattr(error, 'strerror', None) or error).splitlines()[0]
