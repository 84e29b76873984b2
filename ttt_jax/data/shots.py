"""Which frames of which videos a storyboard's segments show.

The first segment of a clip contributes one frame more than the others (the
causal VAE's first latent frame stands for a single pixel frame): 49, then 48,
at the paper's sizes. A segment that follows its predecessor in the same shot
starts one frame later, so that no frame is shown twice:

    same shot, same start        the shot again, without its first frame
    same shot, start + 3 s       reads on where the segment before stopped
    anything else                a cut: the frames from `start` on

The same shot is the same video and, if there is one, the same `end`. Nothing
behind the end is shown: the frame before it stands still, which may take a
third of a segment, as where a scene of two seconds makes one of three.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import math
import pathlib

import numpy as np

from ttt_jax import geometry as geometry_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.runtime import paths
from ttt_jax.video import video_file


class UnreadableVideoError(ValueError):
  """A video that cannot be read, or not as far as a storyboard asks."""


@dataclasses.dataclass(frozen=True)
class Span:
  """Frames of one video.

  Attributes:
    name: of the video, as the storyboard gives it.
    path: of its file.
    start: seconds.
    frames: how many.
    held: how many of them repeat the last one that is read.
  """

  name: str
  path: pathlib.Path
  start: float
  frames: int
  held: int = 0


def spans(
  storyboard: storyboard_lib.Storyboard,
  videos_dir: str,
  geometry: geometry_lib.Geometry,
) -> tuple[Span, ...]:
  """One span a segment; together `geometry.frames` frames.

  Args:
    storyboard: with a video for every segment.
    videos_dir: folder, also 'package:...', of videos given by a relative
      path.
    geometry: of the clips.

  Raises:
    ValueError: another number of segments, or a segment without a video.
    FileNotFoundError: no such video.
  """
  count = len(storyboard.segments)
  if count != geometry.segments:
    raise ValueError(
      f'storyboard {storyboard.name!r} has {count} segments; the data set'
      f' holds clips of {geometry.segments}: write {geometry.segments}'
      ' segments or set config.data.seconds to'
      f' {count * segment_seconds(geometry):g}'
    )
  frame, unit = 1 / geometry.fps, segment_frames(geometry)
  out = []
  before, reached = None, 0.0
  for i, segment in enumerate(storyboard.segments):
    if not segment.video:
      raise ValueError(
        f'segment {i + 1} of storyboard {storyboard.name!r} has no "video";'
        ' precompute needs one for every segment, for example "bikes.mp4"'
      )
    begin = start = float(segment.start or 0.0)
    if before and (segment.video, segment.end) == (before.video, before.end):
      since = start - float(before.start or 0.0)
      if since == 0:
        begin = start + frame
      elif abs(since - unit * frame) < frame / 2:
        begin = reached
    frames = unit + (i == 0)
    reached, before = begin + frames * frame, segment
    held = 0
    if segment.end is not None:
      # A frame counts where it begins before the end; times are rounded.
      there = math.ceil((segment.end - begin) / frame - 1e-3)
      held = max(0, frames - there)
      if there < 1 or held > unit // 3 + 1:
        raise ValueError(
          f'segment {i + 1} of storyboard {storyboard.name!r} shows'
          f' {unit * frame:g} s of {segment.video} from {start:g} s on, but'
          f' the shot ends at {segment.end:g} s; at least'
          f' {(unit - unit // 3) * frame:g} s are needed'
        )
    path = resolve(segment.video, videos_dir)
    out.append(Span(segment.video, path, begin, frames, held))
  return tuple(out)


def segment_frames(geometry: geometry_lib.Geometry) -> int:
  """Pixel frames of every segment but the first."""
  return (geometry.frames - 1) // geometry.segments


def segment_seconds(geometry: geometry_lib.Geometry) -> float:
  """3 in the paper."""
  return segment_frames(geometry) / geometry.fps


def resolve(name: str, videos_dir: str) -> pathlib.Path:
  """The file of a video given by its name in a storyboard."""
  if name.startswith('package:') or pathlib.PurePath(name).is_absolute():
    return paths.resolve(name)
  return paths.resolve(f'{videos_dir}/{name}')


def fingerprint(
  parts: Sequence[Span], prompts: Sequence[str], soften: bool
) -> str:
  """Changes with the frames a clip is made of, its files' sizes, its texts.

  Where the videos' folder lies is no part of it: machines may differ in that.
  """
  sources = [
    (p.name, p.path.stat().st_size, p.start, p.frames, p.held) for p in parts
  ]
  text = json.dumps([sources, list(prompts), soften])
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_frames(
  parts: Sequence[Span], geometry: geometry_lib.Geometry, soften: bool
) -> np.ndarray:
  """Reads and joins spans: uint8 [F', H, W, 3]; `soften`: see `read_video`.

  Raises:
    UnreadableVideoError: a video is damaged or too short.
  """
  shape = (geometry.frames, geometry.height, geometry.width, 3)
  out = np.empty(shape, np.uint8)
  at = 0
  for part in parts:
    read = part.frames - part.held
    try:
      out[at : at + read] = video_file.read_video(
        part.path,
        fps=geometry.fps,
        height=geometry.height,
        width=geometry.width,
        start=part.start,
        frames=read,
        soften=soften,
      )
    except (ValueError, OSError) as e:
      raise UnreadableVideoError(str(e)) from e
    out[at + read : at + part.frames] = out[at + read - 1]
    at += part.frames
  return out
