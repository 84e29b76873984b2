"""Detects the contents of frames, and compares them with their prompt.

The judge fits the world to a frame: the background that agrees with most
pixels, the largest connected component of the other pixels, and the shape of
the same area and position with the largest overlap. Fits below a threshold are
reported as None.
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

# Distances between colours, 0 to 441. The distance between the two most similar
# colours of the world is 112.
_SAME_COLOUR = 56.0
_FOREGROUND = 56.0
# Shares of the picture that a background and an object cover.
_LEAST_BACKGROUND = 0.6
_LEAST_OBJECT, _MOST_OBJECT = 0.02, 0.25
# Intersection over union of a component and its shape.
_LEAST_OVERLAP = 0.6
# Share of the frames with an object that a path requires.
_LEAST_SEEN = 0.75


@dataclasses.dataclass(frozen=True)
class Detection:
  """Contents of a frame; None where nothing of the world fits.

  Attributes:
    shape: Shape of the object.
    colour: Colour of the object.
    background: Colour of the background.
    texture: Texture of the background.
    center: x and y of the object's centre in pixels.
    overlap: Intersection over union of the object and its shape, 0 to 1.
  """

  shape: str | None
  colour: str | None
  background: str | None
  texture: str | None
  center: tuple[float, float] | None
  overlap: float


@dataclasses.dataclass(frozen=True)
class Verdict:
  """Scores of a clip.

  Attributes:
    aspects: Share of the frames that match the prompt, per aspect.
    share: Share of the frames that match the prompt in all aspects.
    followed: Whether most frames match the prompt.
    correlation: Correlation of the object's path with that of the source, -1 to
      1; 0 if the object is missing or does not move.
    consistency: Share of consecutive frames with equal contents.
    flicker: Mean change of the background between consecutive frames, 0 to 255.
  """

  aspects: Mapping[str, float]
  share: float
  followed: bool
  correlation: float
  consistency: float
  flicker: float


def detect(frame: np.ndarray) -> Detection:
  """Detects the contents of a square frame, uint8 [H, H, 3]."""
  frame = frame.astype(np.float64)
  size = len(frame)
  background, texture, outside = _background(frame, size)
  if background is None:
    return Detection(None, None, None, None, None, 0.0)
  components, count = ndimage.label(ndimage.binary_opening(outside))
  if count:
    areas = np.bincount(components.ravel())[1:]
    component = components == 1 + np.argmax(areas)
  if not count or not (_LEAST_OBJECT < component.mean() < _MOST_OBJECT):
    return Detection(None, None, background, texture, None, 0.0)
  component = ndimage.binary_fill_holes(component)
  y, x = (c + 0.5 for c in ndimage.center_of_mass(component))
  inner = ndimage.binary_erosion(component, iterations=2)
  pixels = frame[inner if inner.any() else component]
  colour = _nearest(np.median(pixels, axis=0))
  shape, overlap = _shape(component, x, y, size)
  return Detection(shape, colour, background, texture, (x, y), overlap)


def _background(frame, size):
  """Returns colour, texture and a mask of the pixels that do not match."""
  best, found = _LEAST_BACKGROUND, (None, None, None)
  for colour, texture, flipped in itertools.product(
    world.COLOURS, world.TEXTURES, (False, True)
  ):
    # A caption does not define which of the two tones comes first.
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


def _shape(component, x, y, size) -> tuple[str | None, float]:
  """Returns the best shape of the same area and position, and its overlap."""
  radius = np.sqrt(component.sum() / np.pi)
  overlaps = {}
  for shape in world.SHAPES:
    mask = world.coverage(shape, x, y, radius, size) > 0.5
    overlaps[shape] = float((component & mask).sum() / (component | mask).sum())
  best = max(overlaps, key=overlaps.get)
  return best if overlaps[best] > _LEAST_OVERLAP else None, overlaps[best]


def path(detections: list[Detection]) -> np.ndarray | None:
  """Returns x and y per frame [F, 2], NaN in frames without an object.

  Returns None if too few frames have an object.
  """
  out = np.array([s.center or (np.nan, np.nan) for s in detections])
  seen = np.isfinite(out[:, 0]).mean()
  return out if seen >= _LEAST_SEEN else None


def correlation(found: np.ndarray | None, source: np.ndarray) -> float:
  """Returns the correlation of two paths [F, 2], -1 to 1.

  The coordinates, less their means, are correlated together: a coordinate that
  is constant in the source only lowers the result by what the other clip moves
  along it. Frames without an object are ignored. The correlation of a path
  without motion is 0.

  Raises:
    ValueError: the source does not move, or has another length.
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
      'the object of the source does not move; choose a source with motion'
    )
  scale = np.sqrt(np.square(a).sum() * np.square(b).sum())
  return float((a * b).sum() / scale) if np.square(a).sum() >= 1 else 0.0


def judge(frames: np.ndarray, prompt: str, source_path: np.ndarray) -> Verdict:
  """Scores how well a clip matches its prompt and the motion of the source.

  Args:
    frames: Frames of the clip, uint8 [F, H, H, 3].
    prompt: Caption of the world.
    source_path: x and y of the source's object in pixels [F, 2].

  Raises:
    ValueError: the prompt is not a caption, or the paths cannot be compared.
  """
  attributes = captions.parse(prompt)
  detections = [detect(frame) for frame in frames]
  right = {
    name: np.array(
      [getattr(s, name) == getattr(attributes, name) for s in detections]
    )
    for name in ASPECTS
  }
  share = float(np.all(list(right.values()), axis=0).mean())
  shown = [tuple(getattr(s, name) for name in ASPECTS) for s in detections]
  same = [a == b and None not in a for a, b in zip(shown, shown[1:])]
  return Verdict(
    aspects={name: float(r.mean()) for name, r in right.items()},
    share=share,
    followed=share > 0.5,
    correlation=correlation(path(detections), source_path),
    consistency=float(np.mean(same)),
    flicker=_flicker(frames, detections),
  )


def _flicker(frames: np.ndarray, detections: list[Detection]) -> float:
  """Returns the mean change of pixels far from the object in both frames."""
  size = frames.shape[1]
  rows, columns = np.mgrid[:size, :size] + 0.5
  changes = []
  for i in range(len(frames) - 1):
    away = np.ones((size, size), bool)
    for center in (detections[i].center, detections[i + 1].center):
      if center is not None:
        distance = np.hypot(columns - center[0], rows - center[1])
        away &= distance > 2 * world.RADII[1]
    change = np.abs(np.float64(frames[i + 1]) - frames[i])
    changes.append(change[away].mean())
  return float(np.mean(changes))
