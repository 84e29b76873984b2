"""The frames of videos that the segments of a storyboard show.

The first segment of a clip has one frame more than the others (the causal
VAE's first latent frame represents a single pixel frame): 49, then 48, at the
paper's sizes. A segment that follows another one of the same shot starts one
frame later, so that no frame is shown twice:

    same shot, same start        the shot again, without its first frame
    same shot, start + 3 s       continues after the previous segment
    anything else                a cut: the frames from `start` on

The same shot is the same video and, if given, the same `end`. No frame after
the end is shown: the last frame before it is repeated instead, for at most a
third of a segment, as where a scene of two seconds fills one of three. One
missing frame at the end of a video is repeated in the same way, so that a video
of exactly three seconds is a segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib

import numpy as np

from ttt_jax import geometry as geometry_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import problems as problems_lib
from ttt_jax.runtime import wording
from ttt_jax.video import video_file


class UnreadableVideoError(ValueError):
  """A video that cannot be read, or is shorter than a storyboard needs."""


@dataclasses.dataclass(frozen=True)
class FrameRange:
  """Consecutive frames of one video.

  Attributes:
    name: Name of the video in the storyboard.
    path: Path of its file.
    start: Seconds into the video.
    frames: Number of frames.
    repeated_last: Number of them that repeat the last frame that is read.
  """

  name: str
  path: pathlib.Path
  start: float
  frames: int
  repeated_last: int = 0


def frame_ranges(
  storyboard: storyboard_lib.Storyboard,
  videos_dir: str,
  geometry: geometry_lib.Geometry,
) -> tuple[FrameRange, ...]:
  """Returns one range per segment; together they have `geometry.frames`.

  Args:
    storyboard: Storyboard with a video for every segment.
    videos_dir: Folder of videos with a relative path; may begin with
      'package:'.
    geometry: Geometry of the clips.

  Raises:
    ValueError: the number of segments does not fit, or one has no video.
    FileNotFoundError: a video does not exist.
  """
  count = len(storyboard.segments)
  if count != geometry.segments:
    raise ValueError(
      f'storyboard {storyboard.name!r} has {wording.count(count, "segment")};'
      f' the data set has clips of {geometry.segments}: write'
      f' {wording.count(geometry.segments, "segment")} or set'
      f' config.data.seconds to {count * segment_seconds(geometry):g}'
    )
  period, unit = 1 / geometry.fps, segment_frames(geometry)
  ranges = []
  previous, previous_end = None, 0.0
  for i, segment in enumerate(storyboard.segments):
    if not segment.video:
      raise ValueError(
        f'segment {i + 1} of storyboard {storyboard.name!r} has no "video";'
        ' precompute needs one for every segment, for example "bikes.mp4"'
      )
    begin = start = float(segment.start or 0.0)
    if previous and (segment.video, segment.end) == (
      previous.video,
      previous.end,
    ):
      offset = start - float(previous.start or 0.0)
      if offset == 0:
        begin = start + period
      elif abs(offset - unit * period) < period / 2:
        begin = previous_end
    frames = unit + (i == 0)
    previous_end, previous = begin + frames * period, segment
    repeated = 0
    if segment.end is not None:
      # A frame belongs to the shot if it begins before the end; times are
      # rounded.
      available = math.ceil((segment.end - begin) / period - 1e-3)
      repeated = max(0, frames - available)
      if available < 1 or repeated > unit // 3 + 1:
        raise ValueError(
          f'segment {i + 1} of storyboard {storyboard.name!r} shows'
          f' {unit * period:g} s of {segment.video} from {start:g} s on, but'
          f' the shot ends at {segment.end:g} s; at least'
          f' {(unit - unit // 3) * period:g} s are needed'
        )
    ranges.append(
      FrameRange(
        name=segment.video,
        path=resolve(segment.video, videos_dir),
        start=begin,
        frames=frames,
        repeated_last=repeated,
      )
    )
  return tuple(ranges)


def segment_frames(geometry: geometry_lib.Geometry) -> int:
  """Returns the pixel frames of every segment but the first."""
  return (geometry.frames - 1) // geometry.segments


def segment_seconds(geometry: geometry_lib.Geometry) -> float:
  """Returns the duration of a segment; 3 s in the paper."""
  return segment_frames(geometry) / geometry.fps


def resolve(name: str, videos_dir: str) -> pathlib.Path:
  """Returns the file of a video by its name in a storyboard.

  Raises:
    FileNotFoundError: it does not exist, is a pointer of Git LFS, or a relative
      name leads out of `videos_dir`.
  """
  pure = pathlib.PurePath(name)
  if name.startswith(paths.PACKAGE) or pure.is_absolute():
    path = paths.resolve(name)
  elif '..' in pure.parts:
    raise FileNotFoundError(
      f'{name} is not in {videos_dir}; a video elsewhere needs an absolute path'
    )
  else:
    path = paths.resolve(f'{videos_dir}/{name}')
  if files.is_lfs_pointer(path):
    raise FileNotFoundError(
      f'{path} is a pointer of Git LFS, not the video; run git lfs pull'
    )
  return path


def check_videos(names: Iterable[str], videos_dir: str) -> None:
  """Raises ONE FileNotFoundError for all videos that `resolve` refuses."""
  names = dict.fromkeys(names)
  title = f'of {len(names)} videos cannot be used'
  problems = problems_lib.Problems(title, FileNotFoundError)
  for name in names:
    with problems:
      resolve(name, videos_dir)
  problems.check()


def fingerprint(
  ranges: Sequence[FrameRange], prompts: Sequence[str], soften: bool
) -> str:
  """Returns a hash of a clip's frame ranges, file sizes and texts.

  It does not depend on the folder of the videos, which may differ by machine.
  """
  sources = [
    (
      r.name,
      sum(f.stat().st_size for f in video_file.stored_files(r.path)),
      r.start,
      r.frames,
      r.repeated_last,
    )
    for r in ranges
  ]
  text = json.dumps([sources, list(prompts), soften])
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def conversions(ranges: Iterable[FrameRange]) -> dict[str, tuple[str, ...]]:
  """Returns the changes of the frames of videos, by their names.

  Videos that need nothing are left out, see `video_file.conversions`.
  """
  out = {}
  for name, path in {r.name: r.path for r in ranges}.items():
    with contextlib.suppress(ValueError, OSError):
      out[name] = video_file.conversions(path)
  return {name: notes for name, notes in out.items() if notes}


def read_frames(
  ranges: Sequence[FrameRange], geometry: geometry_lib.Geometry, soften: bool
) -> np.ndarray:
  """Reads ranges of frames and concatenates them.

  Args:
    ranges: Ranges that together have `geometry.frames` frames.
    geometry: Geometry of the clip.
    soften: Whether to soften the frames, as `video_file.read_video` does.

  Returns:
    uint8 [F', H, W, 3], F' pixel frames.

  Raises:
    UnreadableVideoError: a video is damaged or too short.
  """
  shape = (geometry.frames, geometry.height, geometry.width, 3)
  out = np.empty(shape, np.uint8)
  first = 0
  for part in ranges:
    count = part.frames - part.repeated_last
    try:
      out[first : first + count] = video_file.read_held(
        part.path,
        fps=geometry.fps,
        height=geometry.height,
        width=geometry.width,
        start=part.start,
        frames=count,
        soften=soften,
      )
    except (ValueError, OSError) as e:
      raise UnreadableVideoError(str(e)) from e
    out[first + count : first + part.frames] = out[first + count - 1]
    first += part.frames
  return out
