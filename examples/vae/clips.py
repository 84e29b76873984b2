"""Clips for training and measuring a video autoencoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from ttt_jax.runtime import paths
from ttt_jax.video import video_file


@dataclasses.dataclass(frozen=True)
class Clip:
  """A clip in memory.

  Attributes:
    name: File name without its suffix.
    frames: Frames, uint8 [n, H, W, 3].
    held_out: Ranges [from, to) that are excluded from training.
  """

  name: str
  frames: np.ndarray
  held_out: tuple[tuple[int, int], ...]

  def ranges(self) -> list[tuple[int, int]]:
    """Returns the ranges [from, to) of training."""
    edges = [0]
    for begin, end in sorted(self.held_out):
      edges += [begin, end]
    edges.append(len(self.frames))
    pairs = zip(edges[::2], edges[1::2])
    return [(a, b) for a, b in pairs if a < b]


def to_range(frames: np.ndarray) -> np.ndarray:
  """Returns uint8 frames as float32 in [-1, 1]."""
  return frames / np.float32(127.5) - 1


def read_clips(config) -> list[Clip]:
  """Reads the clips of the config with its size and frame rate."""
  clips = []
  for entry in config.clips:
    path = paths.resolve(entry['path'])
    frames = video_file.read_video(
      path, fps=config.fps, height=config.height, width=config.width
    )
    ranges = tuple(tuple(pair) for pair in entry['held_out'])
    for begin, end in ranges:
      if not 0 <= begin < end <= len(frames):
        raise ValueError(
          f'held_out ({begin}, {end}) of {path.name} is not a range within'
          f' its {len(frames)} frames'
        )
    if len(frames) < config.eval_frames:
      raise ValueError(
        f'{path.name} has {len(frames)} frames, fewer than eval_frames'
        f' {config.eval_frames}'
      )
    clips.append(Clip(path.stem, frames, ranges))
  return clips


def windows(
  clips: Sequence[Clip],
  count: int,
  frames: int,
  cuts: float,
  rng: np.random.Generator,
  stride: int = 1,
) -> np.ndarray:
  """Returns random training windows, float32 [count, frames, H, W, 3].

  They are in [-1, 1].

  A share `cuts` of the windows has a hard cut: half of those after an integer
  number of encoder windows, as between two segments, half anywhere. A range
  that is shorter than its window is followed by another one. Windows begin at
  multiples of `stride` frames after the beginning of a range.
  """
  ranges = [(c, a, b) for c in clips for a, b in c.ranges()]
  weights = np.array([b - a for _, a, b in ranges], np.float64)

  def piece(length):
    source, begin, end = ranges[
      rng.choice(len(ranges), p=weights / weights.sum())
    ]
    length = min(length, end - begin)
    start = begin + stride * rng.integers((end - begin - length) // stride + 1)
    return to_range(source.frames[start : start + length])

  out = []
  for _ in range(count):
    first = frames
    if rng.random() < cuts:
      first = int(rng.integers(1, frames))
      if rng.random() < 0.5:
        first = max(first // 8, 1) * 8 + 1
    parts = [piece(min(first, frames))]
    while (missing := frames - sum(map(len, parts))) > 0:
      parts.append(piece(missing))
    out.append(np.concatenate(parts))
  return np.stack(out)


def held_out_windows(
  clip: Clip, frames: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (start, positions of held-out frames) of windows.

  A range has two windows: the earliest and the latest that contain it.
  """
  last = len(clip.frames) - frames
  for begin, end in clip.held_out:
    for start in {min(begin, last), max(0, min(end - frames, last))}:
      inside = np.arange(max(begin, start), min(end, start + frames))
      yield start, inside - start
