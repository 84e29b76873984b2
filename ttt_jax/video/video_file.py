"""Reads a part of a video at any frame rate and size; writes videos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import contextlib
import dataclasses
import fractions
import itertools
import json
import math
import os
import pathlib
from typing import Any

import av
import numpy as np

from ttt_jax.runtime import files
from ttt_jax.video import decode
from ttt_jax.video import picture

# 8 pixels per latent cell, 2 cells per patch.
_SIZE_STEP = 16
_MAX_PAUSE = 60  # Seconds that one frame is held, unless a number is given.
_SETTINGS = 'comment'  # Tag of a file; one that all containers of ours have.
_ROUNDING = fractions.Fraction(1, 50)  # Tolerated at the end, in frames.


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """Contents of a video, found in its packets rather than in its header.

  Attributes:
    width: Width at which a player shows it, in pixels.
    height: Height at which a player shows it, in pixels.
    fps: Average frames per second; 0 for a folder of pictures.
    seconds: Duration of the picture, not of the sound; 0 for a folder.
    frames: Number of frames.
    conversions: Changes of its frames to those that a player shows, for
      example 'turned by 90 degrees'.
  """

  width: int
  height: int
  fps: float
  seconds: float
  frames: int
  conversions: tuple[str, ...] = ()


class TooShortError(ValueError):
  """A video has fewer frames than are needed.

  Attributes:
    available: Number of frames that it has.
  """

  def __init__(self, message: str, available: int):
    super().__init__(message)
    self.available = available


def probe(path: str | os.PathLike[str]) -> VideoInfo:
  """Reads the packets of a video; raises as `read_video` does."""
  first = _first_frame(path)
  height, width = picture.displayed_size(first)
  return VideoInfo(
    width=width,
    height=height,
    conversions=picture.plan(first).notes,
    **decode.contents(pathlib.Path(path))._asdict(),
  )


def conversions(path: str | os.PathLike[str]) -> tuple[str, ...]:
  """Returns `VideoInfo.conversions`, by the first frame alone."""
  return picture.plan(_first_frame(path)).notes


def _first_frame(path: str | os.PathLike[str]) -> decode.TimedFrame:
  first = next(decode.frames(pathlib.Path(path)), None)
  if first is None:
    raise ValueError(f'{path} has no frame that can be decoded')
  return first


def stored_files(path: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Returns the file of a video, or all pictures of a folder, in order.

  Raises:
    FileNotFoundError: the path does not exist, or has no pictures.
  """
  return decode.stored_files(pathlib.Path(path))


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
  frame is as a player shows it (`picture`), resized with a Lanczos filter until
  it covers the size, and cropped to its centre.

  The file is decoded frame by frame, and only resized frames are kept.

  Args:
    path: Path of the video, a GIF, or a folder of pictures, which are taken to
      be `fps` per second.
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
    TooShortError: it ends too early; the message has the number of frames.
    ValueError: a size is not a multiple of 16; the file is not a video, is
      damaged, has a single frame, or has too few frames per second for `fps`.
  """
  _check_size(height, width)
  if not 0.001 <= fps <= 1000:
    raise ValueError(
      f'fps is {fps}; it must be above 0 and at most 1000, for example 16'
    )
  if not 0 <= start < math.inf:
    raise ValueError(f'start is {start}; it must be 0 or more seconds')
  _check_count(frames)
  # 3.2 becomes 16/5: the rounding of a float must not drop the last frame.
  period = 1 / fractions.Fraction(fps).limit_denominator(100_000)
  begin = fractions.Fraction(start).limit_denominator(1_000_000)
  convert = picture.Converter(path, height, width, soften)

  def read(first):
    source = picture.progressive(decode.frames(path, first, period))
    return np.stack(_nearest(path, source, convert, begin, period, frames))

  path = pathlib.Path(path)
  if begin:
    # Packets after an unusual index may end too early.
    with contextlib.suppress(ValueError):
      return read(begin)
  return read(fractions.Fraction())


def read_held(
  path: str | os.PathLike[str], *, frames: int, **kwargs: Any
) -> np.ndarray:
  """Reads a part of a video; repeats the last frame if one is missing.

  A file of exactly 3 s at 16 fps has 48 frames, where a causal autoencoder
  needs 49. Arguments, result and errors are those of `read_video`.
  """
  try:
    return read_video(path, frames=frames, **kwargs)
  except TooShortError as e:
    if not 0 < e.available == frames - 1:
      raise
  out = read_video(path, frames=frames - 1, **kwargs)
  return np.concatenate([out, out[-1:]])


def read_every(
  path: str | os.PathLike[str],
  *,
  stride: int,
  height: int,
  width: int,
  start: int = 0,
  frames: int | None = None,
  soften: bool = False,
) -> np.ndarray:
  """Reads frames by their numbers: `start`, `start + stride`, ...

  Args:
    path: Path of the video, a GIF, or a folder of pictures.
    stride: Distance between two frames in the file, 1 for every frame.
    height: Height in pixels, a multiple of 16.
    width: Width in pixels, a multiple of 16.
    start: Number of the first frame; the file begins with 0.
    frames: Number of frames; None reads to the end.
    soften: Whether to filter, see `read_video`.

  Returns:
    uint8 [n, height, width, 3].

  Raises:
    FileNotFoundError: the file does not exist.
    TooShortError: it has fewer frames; `available` is the number in the file.
    ValueError: as `read_video`.
  """
  _check_size(height, width)
  _check_count(frames)
  if stride < 1 or start < 0:
    raise ValueError(
      f'stride is {stride} and start is {start}; they must be at least 1 and 0'
    )
  convert = picture.Converter(path, height, width, soften)
  source = picture.progressive(decode.frames(pathlib.Path(path)))
  out: list[np.ndarray] = []
  count = 0
  for count, timed in enumerate(source, 1):
    if count > start and (count - 1 - start) % stride == 0:
      out.append(convert(timed))
      if len(out) == frames:
        return np.stack(out)
  _check_found(path, count)
  if not out or (frames is not None and len(out) < frames):
    needed = start + ((frames or 1) - 1) * stride + 1
    raise TooShortError(
      f'{path} has {count} frames; {needed} are needed', count
    )
  return np.stack(out)


def _check_size(height: int, width: int) -> None:
  for name, value in (('height', height), ('width', width)):
    if value < _SIZE_STEP or value % _SIZE_STEP:
      nearest = max(_SIZE_STEP, round(value / _SIZE_STEP) * _SIZE_STEP)
      raise ValueError(
        f'{name} is {value}; it must be a multiple of {_SIZE_STEP}, for'
        f' example {nearest}'
      )


def _check_count(frames: int | None) -> None:
  if frames is not None and frames < 1:
    raise ValueError(f'frames is {frames}; it must be 1 or more')


def _check_found(path, count: int) -> None:
  """Raises ValueError if a file has less than two frames."""
  if not count:
    raise ValueError(f'{path} has no frame that can be decoded')
  if count == 1:
    raise ValueError(f'{path} has one frame only; a video needs 2 or more')


def _check_rate(path, shortest: Any, period: fractions.Fraction) -> None:
  """Raises ValueError if the shortest time between two frames is too long."""
  if math.inf > shortest > 2 * period * (1 + _ROUNDING):
    raise ValueError(
      f'{path} has {float(1 / shortest):g} frames per second; at least'
      f' {float(1 / period) / 2:g} are needed for {float(1 / period):g}, or'
      ' frames would repeat more than twice'
    )


def _nearest(
  path: pathlib.Path,
  source: Iterable[decode.TimedFrame],
  convert: picture.Converter,
  begin: fractions.Fraction,
  period: fractions.Fraction,
  frames: int | None,
) -> list[np.ndarray]:
  """Returns the frames nearest to `begin`, `begin + period`, ..."""
  out: list[np.ndarray] = []
  shortest = math.inf
  last: Any = None
  available = 0
  pairs: Any = itertools.pairwise(itertools.chain(source, (None,)))
  for number, (last, following) in enumerate(pairs):
    gap = (following.time if following else last.end) - last.time
    if frames is None and gap > _MAX_PAUSE:
      raise ValueError(
        f'{path} has no frame for {float(gap):.0f} s after'
        f' {float(last.time):.2f} s'
      )
    if following:
      until = last.time + gap / 2
      # A recording that pauses is not a slow one.
      shortest = min(shortest, gap or shortest)
    else:
      available = max(0, math.floor((last.end - begin) / period + _ROUNDING))
      until = begin + (available - 1) * period
    if number == 100:
      _check_rate(path, shortest, period)
    pixels = None
    while begin + len(out) * period <= until and len(out) != frames:
      pixels = convert(last) if pixels is None else pixels
      out.append(pixels)
    if len(out) == frames:
      break
  is_one = last is not None and not last.time and shortest == math.inf
  _check_found(path, 0 if last is None else 1 if is_one else 2)
  _check_rate(path, shortest, period)
  if len(out) == frames:
    return out
  if frames is None and available:
    return out[:available]
  if not available:
    raise TooShortError(
      f'start is {float(begin):g} s, beyond the end of {path}; it lasts'
      f' {float(last.end):.2f} s',
      0,
    )
  raise TooShortError(
    f'{path} has {available} frames at {float(1 / period):g} fps from'
    f' {float(begin):g} s on; {frames} are needed',
    available,
  )


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Returns the `settings` of `write_video`; {} if a file has none.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a video.
  """
  text = decode.encoding(pathlib.Path(path)).tags.get(_SETTINGS, '')
  try:
    found = json.loads(text)
  except (ValueError, RecursionError):
    return {}  # A comment in words.
  return found if isinstance(found, dict) else {}


def write_video(
  path: str | os.PathLike[str],
  frames: np.ndarray,
  fps: float = 16,
  lossless: bool = False,
  settings: Mapping[str, Any] | None = None,
) -> None:
  """Writes an H.264 MP4 (yuv420p, CRF 18), completely or not at all.

  Args:
    path: Path that ends in .mp4; replaced if it exists.
    frames: Frames, uint8 [n, H, W, 3], H and W even.
    fps: Frames per second.
    lossless: Whether to write H.264 of RGB without loss, for data sets of small
      drawings. Browsers do not show it, FFmpeg and players based on it do.
    settings: JSON values of the video's making, such as the seed;
      stored in the file.

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
      _encode(temporary, frames, fps, lossless, settings)
      # FFmpeg does not report every failed write, as on a full disk.
      is_complete = probe(temporary).frames == len(frames)
    except (av.FFmpegError, ValueError) as e:
      raise files.write_error(path, e) from e
    if not is_complete:
      raise ValueError(
        f'could not write {path} completely; free some space or choose another'
        ' folder'
      )


def _encode(
  path: os.PathLike[str],
  frames: np.ndarray,
  fps: float,
  lossless: bool,
  settings: Mapping[str, Any] | None,
) -> None:
  with av.open(
    str(path), 'w', format='mp4', options={'movflags': 'faststart'}
  ) as container:
    if settings is not None:
      container.metadata[_SETTINGS] = json.dumps(dict(settings))
    rate = fractions.Fraction(fps).limit_denominator(1001)
    codec, pixels, crf = ('libx264', 'yuv420p', '18')
    if lossless:
      codec, pixels, crf = ('libx264rgb', 'rgb24', '0')
    stream = container.add_stream(codec, rate, options={'crf': crf})
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = pixels
    for each in frames:
      frame = av.VideoFrame.from_ndarray(each, format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
