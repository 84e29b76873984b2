"""Joins the figures of a segment's frames to characters.

Every frame adds evidence for a character's look.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from examples.cartoon import acts
from examples.cartoon import gains as gains_lib
from examples.cartoon import recognize
from examples.cartoon import story as story_lib
from examples.cartoon import track as track_lib
from examples.cartoon import words

MIN_FRAMES = 2  # in which a character is seen
_FASTEST = 0.3  # of a picture's height, between two recognized frames


@dataclasses.dataclass(frozen=True, eq=False)
class SeenCharacter:
  """A character in the frames of one segment.

  Attributes:
    look: Most probable look.
    margins: Confidence in each attribute: by how much the best look with
      another value explains less, 0 to 1.
    colours: Measured colours of body and accessory, 0 to 1, [2, 3].
    figures: The recognized figures, by the index in the recognized frames.
    track: Track through the segment, or None if it was not followed.
    act: Its act, or None.
  """

  look: story_lib.Look
  margins: dict[str, float]
  colours: np.ndarray
  figures: dict[int, recognize.Figure]
  track: track_lib.Track | None = None
  act: acts.SeenAct | None = None


def join(
  figures: Sequence[Sequence[recognize.Figure]], times: np.ndarray
) -> tuple[SeenCharacter, ...]:
  """Joins the figures of the same character.

  Args:
    figures: Figures of every recognized frame.
    times: Time of each frame within the segment, 0 to 1.

  Returns:
    Characters, the most visible first.
  """
  order = sorted(
    range(len(figures)), key=lambda i: (-len(figures[i]), abs(times[i] - 0.5))
  )
  tracks: list[dict[int, recognize.Figure]] = []
  for i in order:
    pairs = []
    for a, track in enumerate(tracks):
      gains = np.sum([f.gains for f in track.values()], axis=0)
      for b, figure in enumerate(figures[i]):
        pairs.append((_unlike(gains, figure, track, i), a, b))
    used_tracks, used = set(), set()
    for cost, a, b in sorted(pairs):
      if a in used_tracks or b in used or cost > 1.0:
        continue
      tracks[a][i] = figures[i][b]
      used_tracks.add(a)
      used.add(b)
    tracks += [
      {i: figure} for b, figure in enumerate(figures[i]) if b not in used
    ]
  least = min(MIN_FRAMES, len(figures))
  # A character that leaves at once, or comes late, is in one frame only.
  ends = {0, len(figures) - 1}
  seen = [_character(t) for t in tracks if len(t) >= least or ends & set(t)]
  return tuple(sorted(seen, key=lambda c: -len(c.figures)))


def _unlike(
  gains: np.ndarray,
  figure: recognize.Figure,
  track: dict[int, recognize.Figure],
  frame: int,
) -> float:
  """Returns how little a figure is like a track; more than 1 is another."""
  best = gains.argmax()
  other = figure.gains.argmax()
  loss = 1 - figure.gains.flat[best] / figure.gains.flat[other]
  loss = min(loss, 1 - gains.flat[other] / gains.flat[best])
  nearest = min(track, key=lambda i: abs(i - frame))
  speed = abs(track[nearest].x - figure.x) / abs(nearest - frame) / _FASTEST
  # A figure that is half hidden is easily mistaken, but stays where it is.
  return max(loss, 0.0) * (2 if speed < 0.3 else 5) + 0.3 * speed


def _character(track: dict[int, recognize.Figure]) -> SeenCharacter:
  figures = list(track.values())
  gains = np.sum([f.gains for f in figures], axis=0)
  masses = np.sum([f.masses for f in figures], axis=0)
  colours = sum(f.colours * f.masses[:, None] for f in figures)
  return SeenCharacter(
    look=gains_lib.look_of(gains),
    margins=_look_margins(gains),
    colours=colours / np.maximum(masses, 1e-6)[:, None],
    figures=dict(sorted(track.items())),
  )


def _look_margins(gains: np.ndarray) -> dict[str, float]:
  """Returns the confidence in each attribute."""
  count = len(words.COLOURS)
  table = gains.reshape(
    len(words.SPECIES), len(words.ACCESSORIES), count, count
  )
  best = np.unravel_index(table.argmax(), table.shape)
  top = float(table.max())
  margins = {}
  for name, axis in zip(story_lib.ATTRIBUTES, (0, 2, 1, 3), strict=True):
    others = np.delete(table, best[axis], axis=axis).max()
    margins[name] = float(1 - others / top) if np.isfinite(others) else 1.0
  return margins
