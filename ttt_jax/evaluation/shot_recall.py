"""Which of the known shots does a sampled segment show?

A judge for models trained on a handful of clips: it compares every segment of
a sample with what the VAE makes of each training shot, the best that the model
could have drawn. The nearest shot counts as the one shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

# A shot is a place in a video: (file, seconds from its start).
Shot = tuple[str, float]


@dataclasses.dataclass(frozen=True)
class Recall:
  """The judgement of one sample.

  Attributes:
    name: of the storyboard.
    expected: the shot every segment should show, by its number.
    shown: the nearest one.
    psnr: decibels between each segment and its nearest shot.
  """

  name: str
  expected: tuple[int, ...]
  shown: tuple[int, ...]
  psnr: tuple[float, ...]

  def share_right(self, first: int = 0) -> float:
    """Share of the segments from number `first` on that show their shot."""
    pairs = list(zip(self.expected, self.shown))[first:]
    return float(np.mean([e == s for e, s in pairs]))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
  """Peak signal-to-noise ratio of two uint8 arrays in decibels."""
  error = np.mean(np.square(a.astype(np.float32) - b.astype(np.float32)))
  return float(10 * np.log10(255.0**2 / max(error, 1e-12)))


def shots_of(storyboards: Sequence) -> list[Shot]:
  """The distinct shots of storyboards, in order of appearance.

  Raises:
    ValueError: a segment without a video: nothing tells what it should show.
  """
  shots = {}
  for storyboard in storyboards:
    for i, segment in enumerate(storyboard.segments):
      if not segment.video:
        raise ValueError(
          f'segment {i + 1} of storyboard {storyboard.name!r} has no "video";'
          ' the judge needs one to know what the segment should show, for'
          ' example "bikes.mp4"'
        )
      shots[shot_of(segment)] = None
  return list(shots)


def shot_of(segment) -> Shot:
  """The shot of a storyboard's segment."""
  return segment.video, float(segment.start or 0.0)


def judge(
  storyboard,
  frames: np.ndarray,
  references: Mapping[Shot, np.ndarray],
) -> Recall:
  """Compares a sample with every known shot.

  Args:
    storyboard: what was asked for, with a shot for every segment.
    frames: what was sampled, uint8 [S n + 1, H, W, 3].
    references: n + 1 frames of each shot as the VAE reconstructs it.

  Returns:
    The judgement. The first frame of the video, which precedes the first
    segment's n, is left out.
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
    tuple(shots.index(shot_of(s)) for s in storyboard.segments),
    tuple(int(i) for i in scores.argmax(axis=1)),
    tuple(float(s) for s in scores.max(axis=1)),
  )
