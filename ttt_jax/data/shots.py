"""Which frames of which videos a storyboard's segments show.

The first segment of a clip contributes one frame more than the others (the
causal VAE's first latent frame stands for a single pixel frame): 49, then 48,
at the paper's sizes. A segment that follows its predecessor in the same shot
starts one frame later, so that no frame is shown twice:

    same video, same start       the shot again, without its first frame
    same video, start + 3 s      reads on where the segment before stopped
    anything else                a cut: the frames from `start` on
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from ttt_jax import geometry as geometry_lib
from ttt_jax import paths
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import video


class UnreadableVideoError(ValueError):
  """A video that cannot be read, or not as far as a storyboard asks."""


@dataclasses.dataclass(frozen=True)
class Span:
  """Frames of one video.

  Attributes:
    path: of the video.
    start: seconds.
    frames: how many.
  """

  path: pathlib.Path
  start: float
  frames: int


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
        f' {count * _unit(geometry) / geometry.fps:g}'
    )
  frame = 1 / geometry.fps
  out = []
  before = None
  for i, segment in enumerate(storyboard.segments):
    if not segment.video:
      raise ValueError(
          f'segment {i + 1} of storyboard {storyboard.name!r} has no "video";'
          ' precompute needs one for every segment, for example "bikes.mp4"'
      )
    start = float(segment.start or 0.0)
    follows = before is not None and segment.video == before[0] and (
        start == before[1]
        or abs(start - before[1] - _unit(geometry) * frame) < frame / 2
    )
    out.append(
        Span(
            _resolve(segment.video, videos_dir),
            start + frame if follows else start,
            _unit(geometry) + (i == 0),
        )
    )
    before = (segment.video, start)
  return tuple(out)


def _unit(geometry: geometry_lib.Geometry) -> int:
  """Pixel frames of every segment but the first."""
  return (geometry.frames - 1) // geometry.segments


def _resolve(name: str, videos_dir: str) -> pathlib.Path:
  if name.startswith('package:') or pathlib.PurePath(name).is_absolute():
    return paths.resolve(name)
  return paths.resolve(f'{videos_dir}/{name}')


def fingerprint(
    parts: Sequence[Span], prompts: Sequence[str], soften: bool
) -> str:
  """Changes with the frames a clip is made of, its files' sizes, its texts."""
  sources = [
      (str(p.path), p.path.stat().st_size, p.start, p.frames) for p in parts
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
  frames = []
  for part in parts:
    try:
      frames.append(
          video.read_video(
              part.path,
              fps=geometry.fps,
              height=geometry.height,
              width=geometry.width,
              start=part.start,
              frames=part.frames,
              soften=soften,
          )
      )
    except (ValueError, OSError) as e:
      raise UnreadableVideoError(str(e)) from e
  return np.concatenate(frames)
