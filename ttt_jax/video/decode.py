"""The frames of a file, or of a folder of pictures, with their times.

FFmpeg decodes. The times are computed here, because containers store different
ones: in seconds from the first frame, increasing, without the rounding of the
container's time base.
"""

from __future__ import annotations

import collections
from collections.abc import Generator, Iterable, Iterator
import contextlib
from fractions import Fraction
import functools
import itertools
import math
import pathlib
import re
from typing import NamedTuple

import av
import av.logging
import numpy as np
from PIL import Image
from PIL import ImageOps

from ttt_jax.runtime import files

_PICTURES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
# 8K has 33 megapixels; larger claims are those of damaged headers.
_MAX_PIXELS = 8192 * 4352
# Containers that store one timestamp per frame and an index of key frames.
_SEEKABLE = re.compile('mov|matroska')
# Playlists name other files and addresses; `tty` draws text.
_NOT_VIDEOS = ('concat', 'dash', 'hls', 'imf', 'rtsp', 'sdp', 'tty')
# PyAV's `demux` ends in an IndexError where a damaged file gains streams.
_READ_ERRORS = (av.FFmpegError, EOFError, IndexError)
_PICTURE_ERRORS = (
  OSError,
  SyntaxError,
  ValueError,
  Image.DecompressionBombError,
)
_MARGIN = Fraction(1, 10)  # Decoded before a start, for the deinterlacer.
_JUMP = 10  # Seconds; a longer gap in a broadcast is an edit.


class TimedFrame(NamedTuple):
  """A decoded frame.

  Attributes:
    time: Seconds from the first frame.
    end: Time at which it ends.
    frame: The frame as it is stored.
    pixel_aspect: Width of a stored pixel divided by its height.
    crop: Stored pixels that are not shown: left, right, top, bottom.
  """

  time: Fraction
  end: Fraction
  frame: av.VideoFrame
  pixel_aspect: float = 1.0
  crop: tuple[int, int, int, int] = (0, 0, 0, 0)


class Contents(NamedTuple):
  """Number, duration and rate of stored frames; 0 where it is not defined."""

  frames: int
  seconds: float
  fps: float


def frames(
  path: pathlib.Path,
  begin: Fraction = Fraction(),
  period: Fraction = Fraction(),
) -> Iterator[TimedFrame]:
  """Yields the frames of a video in the order in which they are shown.

  A frame that cannot be decoded is left out, with all others up to the next
  key frame.

  Args:
    path: Path of a file, or of a folder of pictures in the order of the numbers
      in their names.
    begin: Time from which frames are needed. Those before may be left out if
      the frames that arrive are verified to begin with a certain key frame.
    period: Duration of a picture of a folder.

  Raises:
    FileNotFoundError: the path does not exist.
    ValueError: it is not a video, or a frame after `begin` and before the last
      one is damaged.
  """
  if path.is_dir():
    yield from _pictures(path, begin, period)
    return
  if begin > _MARGIN:
    found = _from_key_frame(path, begin)
    first = next(found, None)
    if first:
      yield first
      yield from found
      return
  with _open(path) as (container, stream):
    packets = container.demux(stream)
    yield from _timed(path, container, stream, begin, _decode(packets))


def contents(path: pathlib.Path) -> Contents:
  """Counts the frames of a file, without decoding and without its header."""
  if path.is_dir():
    return Contents(len(stored_files(path)), 0.0, 0.0)
  with _open(path) as (container, stream):
    by_order = _has_order_only(stream)
    times, total, count = [], 0, 0
    # A file that was cut off ends in an error.
    with contextlib.suppress(*_READ_ERRORS):
      for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
          continue
        count += 1
        total += packet.duration or 0
        time = packet.dts if by_order else packet.pts
        if time is not None:
          times.append((time, packet.duration or 0))
    seconds = Fraction(total * stream.time_base)
    if len(times) > 1:
      (first, _), (last, duration) = min(times), max(times)
      duration = duration or (last - first) // (count - 1)
      seconds = (last - first + duration) * stream.time_base
    rate = stream.average_rate or Fraction()
    seconds = _without_rounding(seconds, stream)
    fps = count / seconds if seconds else Fraction()
    if abs(fps - rate) < fps / 100:
      fps = rate
    return Contents(count, float(seconds), float(fps))


class Encoding(NamedTuple):
  """The codec, the pixel format and the container of a file.

  Attributes:
    codec: FFmpeg's name of the codec, for example 'h264'.
    pixel_format: FFmpeg's name of the pixel format, for example 'yuv420p'.
    container: FFmpeg's name of the container, for example 'mp4'.
    tags: Texts about the file, by name.
  """

  codec: str
  pixel_format: str
  container: str
  tags: dict[str, str]


def encoding(path: pathlib.Path) -> Encoding:
  """Reads how a file is stored; raises as `frames` does."""
  with _open(path) as (container, stream):
    names = container.format.name.split(',')
    suffix = path.suffix.lower().removeprefix('.')
    return Encoding(
      stream.codec_context.name,
      stream.codec_context.pix_fmt or 'unknown',
      suffix if suffix in names else names[0],
      dict(container.metadata),
    )


def stored_files(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns a file, or the pictures of a folder in order of their numbers."""
  if not path.exists():
    raise FileNotFoundError(
      f'there is no video {path}; name a video file, or a folder of pictures'
    )
  if not path.is_dir():
    return [path]
  found = [
    file
    for file in path.iterdir()
    if file.suffix.lower() in _PICTURES and not file.name.startswith('.')
  ]
  if not found:
    raise FileNotFoundError(
      f'there is no video {path}: the folder has no pictures, for example'
      ' 0001.png'
    )

  def order(file):
    parts = re.split(r'(\d+)', file.name)
    return [int(x) if x.isdecimal() else x for x in parts], file.name

  return sorted(found, key=order)


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Generator[tuple]:
  """Opens a file; yields the container and its first video stream."""
  if not path.is_file():
    raise FileNotFoundError(
      f'there is no video {path}; name a video file, or a folder of pictures'
    )
  try:
    container = av.open(
      f'file:{path}',
      container_options={
        'protocol_whitelist': 'file',
        'format_whitelist': _formats(),
      },
      options={'max_pixels': str(_MAX_PIXELS)},
      metadata_errors='ignore',
    )
  except (av.FFmpegError, OSError) as e:
    reason = files.first_line(e)
    if files.is_lfs_pointer(path):
      reason = 'it is a pointer of Git LFS; run: git lfs pull'
    raise ValueError(f'{path} cannot be read as a video: {reason}') from e
  with container:
    streams = [
      stream
      for stream in container.streams.video
      # Cover art.
      if not stream.disposition & stream.disposition.attached_pic
    ]
    if not streams:
      raise ValueError(f'{path} has no video stream')
    # The first, unless it is empty, a still or of an unknown codec.
    stream = max(
      streams,
      key=lambda s: (bool(s.codec_context and s.width), s.frames != 1),
    )
    if stream.codec_context is None:
      raise ValueError(f'{path} has a codec that FFmpeg cannot decode')
    stream.codec_context.options = {'max_pixels': str(_MAX_PIXELS)}
    # Threads for frames report an error at a later packet.
    stream.thread_type = 'SLICE' if _has_order_only(stream) else 'AUTO'
    yield container, stream


@functools.cache
def _formats() -> str:
  return ','.join(sorted(av.formats_available.difference(_NOT_VIDEOS)))


def _crop(container, stream) -> tuple[int, int, int, int]:
  """Returns the cropping of a container; PyAV has it in a text only."""
  if not _SEEKABLE.search(container.format.name):
    return 0, 0, 0, 0
  level = av.logging.get_level()
  av.logging.set_level(av.logging.INFO)
  try:
    _, _, text = container.dumps_format().partition(f'#0:{stream.index}')
  finally:
    av.logging.set_level(level)
  found = re.search(
    r'Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)', text.partition('Stream #')[0]
  )
  left, right, top, bottom = map(int, found.groups()) if found else (0,) * 4
  if left + right >= stream.width or top + bottom >= stream.height:
    return 0, 0, 0, 0
  return left, right, top, bottom


def _decode(packets: Iterable) -> Iterator[av.VideoFrame | None]:
  """Yields decoded frames, None where a packet is damaged."""
  packets = iter(packets)
  times: collections.deque = collections.deque()
  by_order = False
  while True:
    try:
      packet = next(packets, None)
      if packet is None:
        return
      by_order = _has_order_only(packet.stream)
      if by_order and packet.size:
        times.append(packet.dts)
      decoded = packet.decode()
    except _READ_ERRORS:
      if times:
        times.pop()
      yield None
      continue
    for frame in decoded:
      if by_order:
        frame.pts = times.popleft() if times else None
      yield None if frame.is_corrupt else frame


def _has_order_only(stream) -> bool:
  """Returns whether packets have times in the order of decoding only."""
  return stream.container.format.name == 'avi'


def _from_key_frame(
  path: pathlib.Path, begin: Fraction
) -> Iterator[TimedFrame]:
  """Yields frames from a key frame before `begin` on; none if another arrives.

  The key frame is found by the container's index, else by its packets.
  """
  with _open(path) as (container, stream):
    first = next(filter(None, _decode(container.demux(stream))), None)
    if first is None or first.pts is None or _has_order_only(stream):
      return
    target = first.pts + math.floor((begin - _MARGIN) / stream.time_base)
    has_index = _SEEKABLE.search(container.format.name)
  skipped = 0 if has_index else _packets_before(path, target)
  if skipped is None:
    return
  with _open(path) as (container, stream):
    try:
      if has_index:
        container.seek(target, stream=stream)
      packets = itertools.islice(container.demux(stream), skipped, None)
      key = next(packets)
    except (*_READ_ERRORS, OverflowError, StopIteration):
      return
    if not key.is_keyframe or key.pts is None or key.pts > target:
      return
    # Frames before the key frame refer to some that were not decoded.
    decoded = (
      frame
      for frame in _decode(itertools.chain([key], packets))
      if not (frame and frame.pts is not None and frame.pts < key.pts)
    )
    found = next(decoded, None)
    if found is None or found.pts != key.pts or not found.key_frame:
      return
    decoded = itertools.chain([found], decoded)
    yield from _timed(path, container, stream, begin, decoded, first.pts)


def _packets_before(path: pathlib.Path, target: int) -> int | None:
  """Counts the packets before the last key frame at or before `target`.

  Returns:
    The number; None if times are missing or do not increase up to there.
  """
  count = previous = None
  with _open(path) as (container, stream), contextlib.suppress(*_READ_ERRORS):
    for i, packet in enumerate(container.demux(stream)):
      if not packet.size:
        break
      if packet.dts is None or packet.pts is None:
        return None
      if packet.dts > target:
        break
      gap = 0 if previous is None else packet.dts - previous
      if not 0 <= gap * stream.time_base <= _JUMP:
        return None
      previous = packet.dts
      if packet.is_keyframe and packet.pts <= target:
        count = i
  return count


def _timed(
  path: pathlib.Path,
  container,
  stream,
  begin: Fraction,
  decoded: Iterable[av.VideoFrame | None],
  origin: int | None = None,
) -> Iterator[TimedFrame]:
  """Yields frames with their times; a timestamp of `origin` is time 0."""
  base = stream.time_base
  crop = _crop(container, stream)
  jumps = bool(container.format.flags & 0x200)  # AVFMT_TS_DISCONT
  aspect = float(stream.sample_aspect_ratio or 1)
  aspect = aspect if 0.1 < aspect < 10 else 1.0
  time = expected = Fraction()
  has_frame = is_damaged = False
  shortest = Fraction()  # Time between two frames.
  for frame in decoded:
    if frame is None:
      is_damaged = True
      continue
    if is_damaged and not frame.key_frame:
      continue
    previous, time = time, expected
    if frame.pts is not None:
      if origin is not None:
        time = _without_rounding((frame.pts - origin) * base, stream)
      is_edit = has_frame and (
        time < previous or (jumps and time > expected + _JUMP)
      )
      if origin is None or is_edit:
        time = expected
        origin = frame.pts - round(expected / base)
    if is_damaged and has_frame and time > begin:
      raise ValueError(f'{path} is damaged before {float(time):.2f} s')
    gap = time - previous if has_frame else Fraction()
    shortest = min(shortest or gap, gap or shortest)
    # Some containers have no duration, or an arbitrary one for the last frame.
    duration = max((frame.duration or 0) * base or gap, shortest)
    expected = _without_rounding(time + duration, stream)
    has_frame, is_damaged = True, False
    yield TimedFrame(time, expected, frame, aspect, crop)


def _without_rounding(time: Fraction, stream) -> Fraction:
  """Returns the time of a constant rate that is stored as `time`."""
  rate = stream.average_rate
  if rate and rate * stream.time_base < Fraction(1, 2):
    exact = round(time * rate) / rate
    if abs(exact - time) <= stream.time_base:
      return exact
  return time


def _pictures(
  folder: pathlib.Path, begin: Fraction, period: Fraction
) -> Iterator[TimedFrame]:
  for i, path in enumerate(stored_files(folder)):
    if (i + 1) * period < begin:
      continue
    try:
      image = ImageOps.exif_transpose(Image.open(path))
    except _PICTURE_ERRORS as e:
      raise ValueError(
        f'{path} cannot be read as a picture: {files.first_line(e)}'
      ) from e
    if image.mode.startswith('I'):  # 16 bits, which Pillow would clip.
      image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    frame = av.VideoFrame.from_image(image.convert('RGB'))
    yield TimedFrame(i * period, (i + 1) * period, frame)
