"""Recognizes which training shot each sampled segment shows.

For models trained on a few clips: every segment of a sample is compared with
the VAE's reconstruction of each training shot, the best possible sample. The
nearest shot counts as the one shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, cast

import numpy as np

from ttt_jax import storyboard as storyboard_lib
from ttt_jax.runtime import paths
from ttt_jax.video import video_file

# A position in a video: (file, seconds from its start).
Shot = tuple[str, float]


@dataclasses.dataclass(frozen=True)
class Recall:
  """The shots of one sample.

  Attributes:
    name: Name of the storyboard.
    expected: Index of the shot that each segment should show.
    shown: Index of the nearest shot of each segment.
    psnr: PSNR in decibels between each segment and its nearest shot.
  """

  name: str
  expected: tuple[int, ...]
  shown: tuple[int, ...]
  psnr: tuple[float, ...]

  def share_right(self, first: int = 0) -> float:
    """Returns the share of segments, from index `first`, with their shot."""
    pairs = list(zip(self.expected, self.shown))[first:]
    return float(np.mean([e == s for e, s in pairs]))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
  """Returns the PSNR of two uint8 arrays in decibels."""
  error = np.mean(np.square(a.astype(np.float32) - b.astype(np.float32)))
  return float(10 * np.log10(255.0**2 / max(error, 1e-12)))


def distinct_shots(
  storyboards: Sequence[storyboard_lib.Storyboard],
) -> list[Shot]:
  """Returns the distinct shots of storyboards, in order of appearance.

  Raises:
    ValueError: a segment has no video, so its expected shot is unknown.
  """
  shots = {}
  for storyboard in storyboards:
    for i, segment in enumerate(storyboard.segments):
      if not segment.video:
        raise ValueError(
          f'segment {i + 1} of storyboard {storyboard.name!r} has no "video";'
          ' recall compares each segment with its video, for example'
          ' "bikes.mp4"'
        )
      shots[segment_shot(segment)] = None
  return list(shots)


def segment_shot(segment: storyboard_lib.Segment) -> Shot:
  """Returns the shot of a storyboard's segment."""
  # A video is required where shots are recognized, see `distinct_shots`.
  return cast(str, segment.video), float(segment.start or 0.0)


def reconstruct_shots(
  pipe: Any, shots: Sequence[Shot], videos: str, soften: bool = True
) -> dict[Shot, np.ndarray]:
  """Encodes and decodes one segment of each shot with the VAE.

  Args:
    pipe: `pipeline.VideoPipeline` with the VAE.
    shots: File and start in seconds of each shot.
    videos: Folder of the files, which may begin with 'package:'.
    soften: Whether frames are antialiased as in training.

  Returns:
    uint8 [n + 1, H, W, 3] for each shot.
  """
  reconstructions = {}
  for name, start in shots:
    frames = video_file.read_video(
      paths.resolve(f'{videos}/{name}'),
      fps=pipe.fps,
      height=pipe.height,
      width=pipe.width,
      start=start,
      frames=pipe.segment_frames + 1,
      soften=soften,
    )
    reconstructions[name, start] = pipe.decode(pipe.encode(frames))
  return reconstructions


def judge(
  storyboard: storyboard_lib.Storyboard,
  frames: np.ndarray,
  references: Mapping[Shot, np.ndarray],
) -> Recall:
  """Compares a sample with every shot.

  The first frame of the video, which precedes the n frames of the first
  segment, is ignored.

  Args:
    storyboard: Storyboard of the sample, with a shot for every segment.
    frames: Sampled frames, uint8 [S n + 1, H, W, 3].
    references: Reconstructions of n + 1 frames of each shot.
  """
  shots = list(references)
  segments = np.split(frames[1:], len(storyboard.segments))
  scores = np.array(
    [
      [psnr(segment, references[shot][1:]) for shot in shots]
      for segment in segments
    ]
  )
  return Recall(
    storyboard.name,
    tuple(shots.index(segment_shot(s)) for s in storyboard.segments),
    tuple(int(i) for i in scores.argmax(axis=1)),
    tuple(float(s) for s in scores.max(axis=1)),
  )
