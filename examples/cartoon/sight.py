"""Recognition of the contents of a video, without its story.

Some frames of every segment are recognized: the place and its prop, and the
characters, who are then followed through more of them.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import hashlib

import numpy as np
from scipy import ndimage

from examples.cartoon import acts
from examples.cartoon import backdrops
from examples.cartoon import identity
from examples.cartoon import motion
from examples.cartoon import quality
from examples.cartoon import recognize
from examples.cartoon import render
from examples.cartoon import sprites
from examples.cartoon import story as story_lib
from examples.cartoon import track as track_lib
from examples.cartoon import words

# Times within a segment at which frames are recognized.
TIMES = (1 / 48, 0.1875, 0.4375, 0.625, 0.8125, 1.0)
# Times at which characters are followed.
TRACKED = (1 / 48, *(t / 16 for t in range(1, 17)))
HEIGHT = 64  # rows of the frames that are recognized
_SIGMAS = (0.0, 0.6, 1.0, 1.5)  # blurs, pixels at 64 rows
_BEFORE, _CHANGE, _AFTER = 0.55, 0.66, 0.75  # times around a prop's change
FEWEST = 9  # frames per segment in which characters can be followed
# A place is recognizable if it is nearer than this, and than all others.
_PLACE_ERROR, _PLACE_RATIO = 0.13, 0.9
_MOST = 2  # characters per frame


@dataclasses.dataclass(frozen=True, eq=False)
class SeenSegment:
  """The recognized contents of a segment.

  Attributes:
    scene: Place and camera.
    is_place: Whether the place is recognizable.
    margins: Confidence in 'place', 'side', 'colour' and 'prop', 0 to 1.
    prop: Recognized prop, or None.
    prop_states: State of the prop at the beginning and at the end, 0 or 1.
    characters: Characters, the most visible first.
    nearness: Mean of `quality.nearness` of the recognized frames.
  """

  scene: backdrops.Scene
  is_place: bool
  margins: dict[str, float]
  prop: str | None
  prop_states: tuple[int, int]
  characters: tuple[identity.SeenCharacter, ...]
  nearness: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Sight:
  """The recognized contents of a video.

  Attributes:
    segments: Segments.
    length: Frames per segment.
    times: Times within a segment at which characters were followed.
    cuts: Whether the change to the next frame is a cut, bool [F - 1].
    flicker: Flicker at every frame, see `quality.changes`, [F].
  """

  segments: tuple[SeenSegment, ...]
  length: int
  times: np.ndarray
  cuts: np.ndarray
  flicker: np.ndarray


@functools.cache
def _places() -> backdrops.Backdrops:
  return backdrops.Backdrops(HEIGHT)


@functools.lru_cache(maxsize=4)
def _tools(
  sigma: float,
) -> tuple[backdrops.Backdrops, recognize.Recognizer, track_lib.Follower]:
  return (
    backdrops.Backdrops(HEIGHT, sigma) if sigma else _places(),
    recognize.Recognizer(HEIGHT, sigma),
    track_lib.Follower(HEIGHT, sigma),
  )


def segment_length(frames: np.ndarray, segments: int) -> int:
  """Returns the number of frames per segment.

  Raises:
    ValueError: the frames have another shape than a video of this world.
  """
  shape = frames.shape
  if frames.ndim != 4 or shape[3] != 3 or frames.dtype != np.uint8:
    raise ValueError(
      f'the frames are {frames.dtype} {list(shape)}; expected uint8 [F, H, W,'
      ' 3]'
    )
  length, rest = divmod(shape[0] - 1, segments)
  if rest or not length or story_lib.SEGMENT_FRAMES % length:
    raise ValueError(
      f'the video has {shape[0]} frames for {segments} segments; expected'
      f' {story_lib.SEGMENT_FRAMES * segments + 1}, or a divisor of'
      f' {story_lib.SEGMENT_FRAMES} per segment and one'
    )
  height, width = shape[1:3]
  if height < 32 or width != round(height * story_lib.ASPECT) or height % 2:
    raise ValueError(
      f'the frames are {height}x{width}; expected an even height of 32 or more'
      ' and a width of 1.5 times it, for example 64x96'
    )
  return length


def _floats(frames: np.ndarray) -> np.ndarray:
  """Returns frames of 64 rows, from 0 to 1."""
  height = frames.shape[1]
  if height == HEIGHT:
    return frames.astype(np.float32) / 255
  if height % HEIGHT == 0:
    k = height // HEIGHT
    n, _, w, c = frames.shape
    small = frames.reshape(n, HEIGHT, k, w // k, k, c)
    return small.mean((2, 4), dtype=np.float32) / 255
  rows = _interpolation(height, HEIGHT)
  columns = _interpolation(frames.shape[2], round(HEIGHT * story_lib.ASPECT))
  pixels = np.moveaxis(frames.astype(np.float32) / 255, -1, 1)
  return np.ascontiguousarray(np.moveaxis(rows @ pixels @ columns.T, 1, -1))


def _interpolation(length: int, target: int) -> np.ndarray:
  """Returns the matrix [target, length] of linear interpolation of pixels."""
  centres = (np.arange(target) + 0.5) * length / target - 0.5
  unit = np.eye(length, dtype=np.float32)
  rows = [np.interp(centres, np.arange(length), each) for each in unit]
  return np.stack(rows, axis=1).astype(np.float32)


def watch(
  frames: np.ndarray, segments: int, cache: dict | None = None
) -> Sight:
  """Recognizes the contents of every segment of a video.

  Args:
    frames: uint8 [n segments + 1, H, W, 3].
    segments: Number of segments.
    cache: Recognized segments of other videos, to which these are added; equal
      segments are recognized once.

  Raises:
    ValueError: see `segment_length`.
  """
  length = segment_length(frames, segments)
  # The previous frame is the last one of the previous segment.
  offsets = np.unique([max(1, round(t * length)) for t in TRACKED])
  sigma = blur_of(frames[np.linspace(0, len(frames) - 1, 6).astype(int)])
  times = offsets / length
  cache = {} if cache is None else cache
  seen = []
  for i in range(segments):
    chosen = frames[i * length + offsets]
    key = chosen.shape, sigma, hashlib.sha256(chosen.tobytes()).digest()
    if key not in cache:
      cache[key] = watch_segment(chosen, times, sigma)
    seen.append(cache[key])
  small = _floats(frames)
  if small.shape[1] >= 48:
    small = (small[:, ::2, ::2] + small[:, 1::2, 1::2]) / 2
  return Sight(tuple(seen), length, times, *quality.changes(small))


def blur_of(frames: np.ndarray) -> float:
  """Returns the blur with which places are most similar to some frames.

  Args:
    frames: uint8 [n, H, W, 3].

  Returns:
    Standard deviation in pixels at 64 rows, one of a few values.
  """
  pixels = _floats(frames)
  tools = _places()
  errors = np.zeros(len(_SIGMAS))
  for frame in pixels:
    scene = tools.fit(frame[None])
    drawn = tools.crop(scene.place, float(scene.cameras[0]))
    for i, sigma in enumerate(_SIGMAS):
      blurred = ndimage.gaussian_filter(drawn, (sigma, sigma, 0), truncate=3)
      errors[i] += np.minimum(np.abs(frame - blurred).mean(-1), 0.15).sum()
  return float(_SIGMAS[errors.argmin()])


def watch_segment(
  frames: np.ndarray, times: np.ndarray, sigma: float
) -> SeenSegment:
  """Recognizes the contents of the frames of one segment.

  Args:
    frames: uint8 [m, H, W, 3].
    times: Time of each frame within the segment, 0 to 1.
    sigma: Standard deviation of their blur in pixels at 64 rows.
  """
  chosen = np.unique([np.abs(times - t).argmin() for t in TIMES])
  pixels = _floats(frames)
  seen, drawn = _recognize(
    pixels[chosen], times[chosen], sigma, frames.shape[1]
  )
  near = [
    quality.nearness(frame / np.float32(255), other)
    for frame, other in zip(frames[chosen], drawn, strict=True)
  ]
  seen = dataclasses.replace(
    seen,
    nearness={
      key: float(np.mean([n[key] for n in near])) for key in quality.PARTS
    },
  )
  if len(times) < FEWEST:
    return seen
  return _follow(seen, pixels, times, times[chosen], sigma)


def _recognize(
  frames: np.ndarray, times: np.ndarray, sigma: float, height: int
) -> tuple[SeenSegment, list[np.ndarray]]:
  """Returns the contents of frames, and drawings of them with `height` rows."""
  places, people, _ = _tools(sigma)
  scene = places.fit(frames)
  cameras = [float(c) for c in scene.cameras]
  place = scene.place
  errors = [places.props(f, place, c)[0] for f, c in zip(frames, cameras)]
  kind, states, _ = _prop(np.array(errors), times)
  place = dataclasses.replace(place, prop=kind)
  figures, free = [], []
  for frame, camera, t in zip(frames, cameras, times):
    state = states[int(t > _CHANGE)]
    drawn = places.crop(place, camera, state if kind else None)
    hidden = places.cover(place, camera)
    found = people.figures(frame, drawn, hidden, _MOST)
    figures.append([f for f in found if f.is_clear])
    covers = [f.cover for f in figures[-1]]
    free.append(np.prod([1 - c for c in covers], axis=0) if covers else None)
  # Once more, without the pixels of characters.
  compared = [
    places.props(f, place, c, w) for f, c, w in zip(frames, cameras, free)
  ]
  kind, states, gap = _prop(np.array([e for e, _ in compared]), times)
  pixels = sum(n for _, n in compared)
  is_place = scene.error < _PLACE_ERROR and (
    scene.layouts.min() < _PLACE_RATIO * np.sort(scene.layouts)[1]
  )
  if not is_place:  # Another object at its position is not a prop.
    kind, states = None, (0, 0)
  place = dataclasses.replace(place, prop=kind)
  scene = dataclasses.replace(scene, place=place)
  characters = identity.join(figures, times)
  drawn = [
    _redrawn(scene, i, states[int(t > _CHANGE)], characters, figures[i], height)
    for i, t in enumerate(times)
  ]
  seen = SeenSegment(
    scene=scene,
    is_place=bool(is_place),
    margins=_place_margins(scene)
    | dict(prop=float(gap / max(pixels, 1) / 0.1)),
    prop=kind,
    prop_states=states,
    characters=characters,
    nearness={},
  )
  return seen, drawn


def _redrawn(
  scene: backdrops.Scene,
  frame: int,
  prop_state: int,
  characters: Sequence[identity.SeenCharacter],
  figures: Sequence[recognize.Figure],
  height: int,
) -> np.ndarray:
  """Draws the recognized contents of a frame, float32 [H, W, 3]."""
  shown = []
  for figure in figures:
    ground = figure.y
    for character in characters:
      if figure in character.figures.values():
        ground = max(f.y for f in character.figures.values())
    stance = sprites.STANCES[figure.stance]
    lift = ground - figure.y if stance.name == 'air' else 0.0
    shown.append(
      motion.CharacterState(
        name='',
        look=figure.look,
        x=figure.x + float(scene.cameras[frame]),
        ground=figure.y + lift,
        lift=lift,
        facing=figure.facing,
        pose=stance.pose,
        item=stance.item,
      )
    )
  state = motion.FrameState(
    place=scene.place,
    prop_change=float(prop_state),
    characters=tuple(shown),
    camera=float(scene.cameras[frame]),
  )
  width = round(height * story_lib.ASPECT)
  return render.frame(state, height, width) / np.float32(255)


def _follow(
  seen: SeenSegment,
  frames: np.ndarray,
  times: np.ndarray,
  chosen: np.ndarray,
  sigma: float,
) -> SeenSegment:
  """Follows the recognized characters through all frames."""
  if not seen.characters:
    return seen
  places, _, follower = _tools(sigma)
  scene = seen.scene
  cameras = np.interp(times, chosen, scene.cameras)
  if np.ptp(scene.cameras) > 1 / follower.height:
    cameras = np.array(
      [
        places.camera(frame, scene.place, float(at), 2.5 / follower.height)
        for frame, at in zip(frames, cameras)
      ]
    )
  place = scene.place
  known = []
  for character in seen.characters:
    known.append(
      {
        float(chosen[i]): (f.x + float(scene.cameras[i]), f.y)
        for i, f in character.figures.items()
      }
    )
  tracks = follower.follow(
    frames,
    [
      places.crop(
        place,
        float(c),
        seen.prop_states[int(t > _CHANGE)] if seen.prop else None,
      )
      for c, t in zip(cameras, times)
    ],
    [places.cover(place, float(c)) for c in cameras],
    cameras,
    times,
    [c.look for c in seen.characters],
    known,
  )
  is_changed = seen.prop_states == (0, 1)
  characters = tuple(
    dataclasses.replace(
      character, track=track, act=acts.recognize(track, place, is_changed)
    )
    for character, track in zip(seen.characters, tracks)
    if track.visible.sum() >= identity.MIN_FRAMES
    or track.visible[[0, -1]].any()
  )
  return dataclasses.replace(seen, characters=characters)


def _place_margins(scene: backdrops.Scene) -> dict[str, float]:
  layouts = scene.layouts.reshape(-1, len(story_lib.SIDES))
  sides = np.sort(layouts[layouts.min(1).argmin()])
  kinds = np.sort(layouts.min(1))
  colours = np.sort(scene.colours)
  return {
    name: float(1 - x[0] / max(x[1], 1e-9))
    for name, x in dict(place=kinds, side=sides, colour=colours).items()
  }


def _prop(
  errors: np.ndarray, times: np.ndarray
) -> tuple[str | None, tuple[int, int], float]:
  """Recognizes the prop of a place.

  Args:
    errors: Errors [frames, `backdrops.PROP_STATES`].
    times: Time of each frame within the segment, 0 to 1.

  Returns:
    The prop, its state at the beginning and at the end, and by how much the
    error of the second best one is greater.
  """
  columns, states = [errors[:, 0]], [(0, 0)]
  for kind in words.PROPS:
    pair = errors[:, [backdrops.PROP_STATES.index((kind, s)) for s in (0, 1)]]
    column, found = pair.min(1), []
    for chosen in (times <= _BEFORE, times >= _AFTER):
      rows = pair[chosen] if chosen.any() else pair
      found.append(int(rows.sum(0).argmin()))
      column[chosen] = pair[chosen, found[-1]]
    columns.append(column)
    states.append((found[0], found[1]))
  totals = np.stack(columns, axis=1).sum(0)
  best = int(totals.argmin())
  first, second = np.sort(totals)[:2]
  return (None, *words.PROPS)[best], states[best], second - first
