"""What a video shows, seen without its story.

Some frames of every segment are recognized: the place and its prop, and the
characters. A character's frames are put together, so that every frame adds
evidence for its look.
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
from examples.cartoon import motion
from examples.cartoon import quality
from examples.cartoon import recognize
from examples.cartoon import render
from examples.cartoon import sprites
from examples.cartoon import track as track_lib
from examples.cartoon import words
from examples.cartoon import world

# Times within a segment at which frames are recognized.
TIMES = (1 / 48, 0.1875, 0.4375, 0.625, 0.8125, 1.0)
# Times at which characters are followed.
TRACKED = (1 / 48, *(t / 16 for t in range(1, 17)))
ATTRIBUTES = ('species', 'colour', 'accessory', 'accessory_colour')
HEIGHT = 64  # rows of the frames that are looked at
_SIGMAS = (0.0, 0.6, 1.0, 1.5)  # blurs, pixels at 64 rows
_BEFORE, _CHANGE, _AFTER = 0.55, 0.66, 0.75  # times around a prop's change
FEWEST = 9  # frames per segment in which characters can be followed
# A place is recognizable if it is nearer than this, and than all others.
_PLACE_ERROR, _PLACE_RATIO = 0.13, 0.9
_MIN_FRAMES = 2  # in which a character is seen
_MOST = 2  # characters per frame
_FASTEST = 0.3  # of a picture's height, between two recognized frames


@dataclasses.dataclass(frozen=True, eq=False)
class SeenCharacter:
  """A character in the frames of one segment.

  Attributes:
    look: Most probable look.
    gains: Sum of `recognize.Figure.gains`.
    margins: Confidence in each attribute: by how much the best look with
      another value explains less, 0 to 1.
    colours: Measured colours of body and accessory, 0 to 1, [2, 3].
    figures: The recognized figures, by the index in the recognized frames.
    explained: Mean share of the pixels' difference that is explained.
    track: Track through the segment, or None if it was not followed.
    act: What it does, or None.
  """

  look: world.Look
  gains: np.ndarray
  margins: dict[str, float]
  colours: np.ndarray
  figures: dict[int, recognize.Figure]
  explained: float
  track: track_lib.Track | None = None
  act: acts.SeenAct | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class SeenSegment:
  """What a segment shows.

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
  characters: tuple[SeenCharacter, ...]
  nearness: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Sight:
  """What a video shows.

  Attributes:
    segments: Segments.
    length: Frames per segment.
    times: Times within a segment at which characters were followed.
    sigma: Standard deviation of the blur, pixels of the frames that were seen.
    cuts: Whether the change to the next frame is a cut, bool [F - 1].
    flicker: Flicker at every frame, see `quality.changes`, [F].
  """

  segments: tuple[SeenSegment, ...]
  length: int
  times: np.ndarray
  sigma: float
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
  if rest or not length or world.SEGMENT_FRAMES % length:
    raise ValueError(
      f'the video has {shape[0]} frames for {segments} segments; expected'
      f' {world.SEGMENT_FRAMES * segments + 1}, or a divisor of'
      f' {world.SEGMENT_FRAMES} per segment and one'
    )
  height, width = shape[1:3]
  if height < 32 or width != round(height * world.ASPECT) or height % 2:
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
  zoom = HEIGHT / height
  return ndimage.zoom(
    frames.astype(np.float32) / 255,
    (1, zoom, zoom, 1),
    order=1,
    mode='nearest',
    grid_mode=True,
  )


def watch(
  frames: np.ndarray, segments: int, cache: dict | None = None
) -> Sight:
  """Recognizes what every segment of a video shows.

  Args:
    frames: uint8 [n segments + 1, H, W, 3].
    segments: Number of segments.
    cache: What was seen in segments of other videos, which is added to; equal
      segments are looked at once.

  Raises:
    ValueError: see `segment_length`.
  """
  length = segment_length(frames, segments)
  # The frame before is the previous segment's last.
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
  return Sight(tuple(seen), length, times, sigma, *quality.changes(small))


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
  """Recognizes what the frames of one segment show.

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
  """Returns what frames show, and drawings of it with `height` rows."""
  places, people, _ = _tools(sigma)
  scene = places.fit(frames)
  cameras = [float(c) for c in scene.cameras]
  place = scene.place
  errors = [places.props(f, place, c)[0] for f, c in zip(frames, cameras)]
  kind, states = _prop(np.array(errors), times)
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
  errors = np.array([e for e, _ in compared])
  kind, states = _prop(errors, times)
  place = dataclasses.replace(place, prop=kind)
  pixels = sum(n for _, n in compared)
  best, second = np.sort(_by_kind(errors, times).sum(0))[:2]
  scene = dataclasses.replace(scene, place=place)
  is_place = scene.error < _PLACE_ERROR and (
    scene.layouts.min() < _PLACE_RATIO * np.sort(scene.layouts)[1]
  )
  if not is_place:  # Whatever is there instead is no prop.
    kind, states = None, (0, 0)
    scene = dataclasses.replace(
      scene, place=dataclasses.replace(place, prop=None)
    )
  characters = _together(figures, times)
  drawn = [
    _redrawn(scene, i, states[int(t > _CHANGE)], characters, figures[i], height)
    for i, t in enumerate(times)
  ]
  seen = SeenSegment(
    scene=scene,
    is_place=bool(is_place),
    margins=_place_margins(scene)
    | dict(prop=float((second - best) / max(pixels, 1) / 0.1)),
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
  characters: Sequence[SeenCharacter],
  figures: Sequence[recognize.Figure],
  height: int,
) -> np.ndarray:
  """Draws what was recognized in a frame, float32 [H, W, 3]."""
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
  width = round(height * world.ASPECT)
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
    if track.visible.sum() >= _MIN_FRAMES or track.visible[[0, -1]].any()
  )
  return dataclasses.replace(seen, characters=characters)


def _place_margins(scene: backdrops.Scene) -> dict[str, float]:
  layouts = scene.layouts.reshape(-1, len(world.SIDES))
  sides = np.sort(layouts[layouts.min(1).argmin()])
  kinds = np.sort(layouts.min(1))
  colours = np.sort(scene.colours)
  return {
    name: float(1 - x[0] / max(x[1], 1e-9))
    for name, x in dict(place=kinds, side=sides, colour=colours).items()
  }


def _by_kind(errors: np.ndarray, times: Sequence[float]) -> np.ndarray:
  """Returns errors [frames, none and props] in the props' better states."""
  early = np.array([t <= _BEFORE for t in times])
  late = np.array([t >= _AFTER for t in times])
  columns = [errors[:, 0]]
  for kind in words.PROPS:
    pair = errors[:, _states(kind)]
    column = pair.min(1)
    for chosen in (early, late):
      if chosen.any():
        column[chosen] = pair[chosen][:, pair[chosen].sum(0).argmin()]
    columns.append(column)
  return np.stack(columns, axis=1)


def _states(kind: str) -> list[int]:
  return [backdrops.PROP_STATES.index((kind, s)) for s in (0, 1)]


def _prop(
  errors: np.ndarray, times: Sequence[float]
) -> tuple[str | None, tuple[int, int]]:
  """Returns the prop, and its state at the beginning and at the end."""
  best = int(_by_kind(errors, times).sum(0).argmin())
  if not best:
    return None, (0, 0)
  kind = words.PROPS[best - 1]
  pair = errors[:, _states(kind)]
  states = []
  for chosen in (
    [t <= _BEFORE for t in times],
    [t >= _AFTER for t in times],
  ):
    rows = pair[chosen] if any(chosen) else pair
    states.append(int(rows.sum(0).argmin()))
  return kind, (states[0], states[1])


def _together(
  figures: Sequence[Sequence[recognize.Figure]], times: Sequence[float]
) -> tuple[SeenCharacter, ...]:
  """Joins the figures of the same character."""
  order = sorted(
    range(len(figures)), key=lambda i: (-len(figures[i]), abs(times[i] - 0.5))
  )
  tracks: list[dict[int, recognize.Figure]] = []
  for i in order:
    pairs = []
    for a, track in enumerate(tracks):
      gains = sum(f.gains for f in track.values())
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
  least = min(_MIN_FRAMES, len(figures))
  # Whoever leaves at once, or comes late, is seen in one frame only.
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
  look = recognize.look_of(gains)
  masses = np.sum([f.masses for f in figures], axis=0)
  colours = sum(f.colours * f.masses[:, None] for f in figures)
  return SeenCharacter(
    look=look,
    gains=gains,
    margins=_look_margins(gains),
    colours=colours / np.maximum(masses, 1e-6)[:, None],
    figures=dict(sorted(track.items())),
    explained=float(np.mean([f.explained for f in figures])),
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
  for axis, name in (
    (0, 'species'),
    (2, 'colour'),
    (1, 'accessory'),
    (3, 'accessory_colour'),
  ):
    others = np.delete(table, best[axis], axis=axis).max()
    margins[name] = float(1 - others / top) if np.isfinite(others) else 1.0
  return margins
