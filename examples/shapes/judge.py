"""Tells from frames alone what they show, and whether that was asked for.

The judge explains a frame by the world: of all backgrounds the one that most
pixels agree with, of what is left the largest piece, and of all shapes of
that area at that place the one that covers it best. Where the best
explanation is a bad one it says that it sees none.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import itertools

import numpy as np
from scipy import ndimage

from examples.shapes import captions
from examples.shapes import world

ASPECTS = ('shape', 'colour', 'background', 'texture')

# Distances between colours, of 0 to 441. The nearest two colours of the world
# are 112 apart.
_SAME_COLOUR = 56.0
_FOREGROUND = 56.0
# Shares of the picture: of a background, of an object.
_LEAST_BACKGROUND = 0.6
_LEAST_OBJECT, _MOST_OBJECT = 0.02, 0.25
# Overlap by union of a piece and the shape that it is taken for.
_LEAST_OVERLAP = 0.6
# Share of the frames that must have an object for there to be a path.
_LEAST_SEEN = 0.75


@dataclasses.dataclass(frozen=True)
class Sight:
  """What the judge sees in a frame; None is nothing that it knows.

  Attributes:
    shape: of the object.
    colour: of the object.
    background: colour.
    texture: of the background.
    place: x and y of the object's middle, pixels.
    overlap: how well the shape explains the object, 0 to 1.
  """

  shape: str | None
  colour: str | None
  background: str | None
  texture: str | None
  place: tuple[float, float] | None
  overlap: float


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What the judge says of a clip.

  Attributes:
    aspects: share of the frames that show each of `ASPECTS` as prompted.
    share: share of the frames that show all of them as prompted.
    followed: most frames do.
    correlation: of the object's path with the source's, -1 to 1; 0 where the
      object is not there or stands still.
    consistency: share of the pairs of neighbours that show the same thing.
    flicker: mean change of the background from a frame to the next, of 255.
  """

  aspects: Mapping[str, float]
  share: float
  followed: bool
  correlation: float
  consistency: float
  flicker: float


def see(frame: np.ndarray) -> Sight:
  """Looks at a frame uint8 [H, W, 3]; its sides are equal."""
  frame = frame.astype(np.float64)
  size = len(frame)
  background, texture, outside = _background(frame, size)
  if background is None:
    return Sight(None, None, None, None, None, 0.0)
  pieces, count = ndimage.label(ndimage.binary_opening(outside))
  if count:
    areas = np.bincount(pieces.ravel())[1:]
    piece = pieces == 1 + np.argmax(areas)
  if not count or not (_LEAST_OBJECT < piece.mean() < _MOST_OBJECT):
    return Sight(None, None, background, texture, None, 0.0)
  # Holes and the antialiased edge belong to it.
  piece = ndimage.binary_fill_holes(piece)
  y, x = (c + 0.5 for c in ndimage.center_of_mass(piece))
  inner = ndimage.binary_erosion(piece, iterations=2)
  pixels = frame[inner if inner.any() else piece]
  colour = _nearest(np.median(pixels, axis=0))
  shape, overlap = _shape(piece, x, y, size)
  return Sight(shape, colour, background, texture, (x, y), overlap)


def _background(frame, size):
  """Colour and texture, and the pixels that are of something else."""
  best, found = _LEAST_BACKGROUND, (None, None, None)
  for colour, texture, flipped in itertools.product(
    world.COLOURS, world.TEXTURES, (False, True)
  ):
    # A caption does not say which of the two tones comes first.
    ground = world.background(colour, texture, flipped, size)
    outside = np.sqrt(np.square(frame - ground).sum(-1)) > _FOREGROUND
    if 1 - outside.mean() > best:
      best, found = 1 - outside.mean(), (colour, texture, outside)
  return found


def _nearest(pixel) -> str | None:
  names = list(world.COLOURS)
  table = np.array([world.COLOURS[name] for name in names])
  distances = np.sqrt(np.square(table - pixel).sum(-1))
  i = int(np.argmin(distances))
  return names[i] if distances[i] < _SAME_COLOUR else None


def _shape(piece, x, y, size) -> tuple[str | None, float]:
  """The shape of the same area in that place that covers it best."""
  radius = np.sqrt(piece.sum() / np.pi)
  overlaps = {}
  for shape in world.SHAPES:
    wanted = world.coverage(shape, x, y, radius, size) > 0.5
    overlaps[shape] = float((piece & wanted).sum() / (piece | wanted).sum())
  best = max(overlaps, key=overlaps.get)
  found = best if overlaps[best] > _LEAST_OVERLAP else None
  return found, overlaps[best]


def path(sights: list[Sight]) -> np.ndarray | None:
  """x and y of each frame [F, 2], NaN where there is no object.

  None where too few frames have one.
  """
  out = np.array([s.place or (np.nan, np.nan) for s in sights])
  seen = np.isfinite(out[:, 0]).mean()
  return out if seen >= _LEAST_SEEN else None


def correlation(found: np.ndarray | None, source: np.ndarray) -> float:
  """How alike two paths [F, 2] are, -1 to 1.

  Both coordinates count together, each less its mean: one that is constant
  in the source adds nothing but what the other clip moves along it. Frames
  without an object are left out; a path that stands still is like no other.

  Raises:
    ValueError: the source stands still, or has another length.
  """
  if found is None:
    return 0.0
  if found.shape != source.shape:
    raise ValueError(
      f'a path of {len(found)} frames cannot be compared with one of'
      f' {len(source)}'
    )
  seen = np.isfinite(found[:, 0]) & np.isfinite(source[:, 0])
  a, b = (p[seen] - p[seen].mean(0) for p in (found, source))
  if np.square(b).sum() < 1:
    raise ValueError(
      'the object of the source stands still: there is no motion to compare'
    )
  scale = np.sqrt(np.square(a).sum() * np.square(b).sum())
  return float((a * b).sum() / scale) if np.square(a).sum() >= 1 else 0.0


def judge(frames: np.ndarray, prompt: str, source_path: np.ndarray) -> Verdict:
  """Whether a clip shows what was asked for, moving as the source does.

  Args:
    frames: uint8 [F, H, W, 3].
    prompt: a caption of the world.
    source_path: x and y of the source's object, [F, 2] pixels.

  Raises:
    ValueError: no such caption, or paths that cannot be compared.
  """
  look = captions.parse(prompt)
  sights = [see(frame) for frame in frames]
  right = {
    name: np.array([getattr(s, name) == getattr(look, name) for s in sights])
    for name in ASPECTS
  }
  share = float(np.all(list(right.values()), axis=0).mean())
  shown = [tuple(getattr(s, name) for name in ASPECTS) for s in sights]
  same = [a == b and None not in a for a, b in zip(shown, shown[1:])]
  return Verdict(
    aspects={name: float(r.mean()) for name, r in right.items()},
    share=share,
    followed=share > 0.5,
    correlation=correlation(path(sights), source_path),
    consistency=float(np.mean(same)),
    flicker=_flicker(frames, sights),
  )


def _flicker(frames: np.ndarray, sights: list[Sight]) -> float:
  """Mean change of pixels that are far from the object in both frames."""
  size = frames.shape[1]
  rows, columns = np.mgrid[:size, :size] + 0.5
  changes = []
  for i in range(len(frames) - 1):
    away = np.ones((size, size), bool)
    for place in (sights[i].place, sights[i + 1].place):
      if place is not None:
        distance = np.hypot(columns - place[0], rows - place[1])
        away &= distance > 2 * world.RADII[1]
    change = np.abs(np.float64(frames[i + 1]) - frames[i])
    changes.append(change[away].mean())
  return float(np.mean(changes))
