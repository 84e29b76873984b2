"""True videos of a story, degraded on purpose, to test the judge.

Every degradation has a strength from 0 to 1, the axes that it must lower, and
those that it may lower because they are defined by the same thing. It must not
lower the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import functools
import math

import numpy as np
from scipy import ndimage

from examples.cartoon import motion
from examples.cartoon import pen as pen_lib
from examples.cartoon import render
from examples.cartoon import story as story_lib
from examples.cartoon import words
from examples.cartoon import world

STRENGTHS = (1 / 3, 2 / 3, 1.0)
# A state and the paints of its characters, by the index of the frame.
_Change = Callable[[int, motion.FrameState], tuple[motion.FrameState, dict]]


@dataclasses.dataclass(frozen=True)
class Clip:
  """A story, drawn with some frames per segment.

  Attributes:
    story: Story.
    length: Frames per segment, a divisor of 48.
    height: Pixel rows.
  """

  story: story_lib.Story
  length: int = story_lib.SEGMENT_FRAMES
  height: int = 64

  @property
  def count(self) -> int:
    return self.length * len(self.story.segments) + 1

  def state(self, i: int) -> motion.FrameState:
    return motion.state(self.story, i * story_lib.SEGMENT_FRAMES // self.length)

  def segment(self, i: int) -> int:
    """Returns the segment of a frame."""
    return max(i - 1, 0) // self.length

  @functools.cached_property
  def frames(self) -> np.ndarray:
    """Returns the true video, uint8 [F, H, W, 3]."""
    return np.stack([self._draw(self.state(i)) for i in range(self.count)])

  def _draw(self, state: motion.FrameState, paints=None) -> np.ndarray:
    width = round(self.height * story_lib.ASPECT)
    return render.frame(state, self.height, width, paints)

  def changed(self, change: _Change) -> np.ndarray:
    """Returns the video of changed states."""
    frames = self.frames.copy()
    for i in range(self.count):
      state = self.state(i)
      other, paints = change(i, state)
      if other != state or paints:
        frames[i] = self._draw(other, paints)
    return frames


def story_of(segments: int) -> story_lib.Story:
  """Returns the first story of the validation split that suits the test.

  Nobody leaves, a prop is seen again after its change, and two characters and a
  place return.

  Raises:
    ValueError: no such story is found; there are too few segments.
  """
  settings = world.Settings(exits=0.0, pans=0.0, changes=1.0)
  wanted = 3 if segments >= 8 else 1  # As many strengths as can differ.
  for seed in range(300):
    story = world.draw_story(seed, segments, settings, 'validation')
    changed = [
      sum(s.place == p for s in story.segments[at + 1 :])
      for p in range(len(story.places))
      if (at := story.change_segment(p)) is not None
    ]
    returns = [c for c in range(len(story.cast)) if _returns(story, c)]
    if (
      min(sum(changed), len(_swappable(story))) >= wanted
      and len(returns) >= 2
      and len(story.places) >= min(wanted + 1, 3)
    ):
      return story
  raise ValueError(f'no story of {segments} segments is found; use 9 or more')


def _returns(story: story_lib.Story, character: int) -> list[int]:
  """Returns the segments in which a character returns after an absence."""
  seen = [
    i
    for i, segment in enumerate(story.segments)
    if any(act.character == character for act in segment.acts)
  ]
  return [b for a, b in zip(seen, seen[1:]) if b > a + 1]


def _each(
  state: motion.FrameState,
  change: Callable[[motion.CharacterState], motion.CharacterState],
) -> motion.FrameState:
  return dataclasses.replace(
    state, characters=tuple(change(c) for c in state.characters)
  )


def frozen(clip: Clip, strength: float) -> np.ndarray:
  """Shows one frame during a share of every segment."""
  frames = clip.frames.copy()
  for s in range(len(clip.story.segments)):
    first = s * clip.length + 1
    last = s * clip.length + round(strength * clip.length)
    frames[first:last] = frames[last]
  return frames


def jitter(clip: Clip, strength: float) -> np.ndarray:
  """Moves characters by random distances in every frame."""
  rng = np.random.default_rng(0)

  def change(i, state):
    del i

    def move(c):
      dx, dy = 0.05 * strength * rng.normal(size=2)
      return dataclasses.replace(c, x=c.x + dx, ground=c.ground + dy)

    return _each(state, move), {}

  return clip.changed(change)


def jumps(clip: Clip, strength: float) -> np.ndarray:
  """Lets characters of some segments be elsewhere for a moment."""
  # Not of those in which somebody is hidden in that moment.
  free = [
    s
    for s in range(len(clip.story.segments))
    if (state := clip.state(s * clip.length + clip.length // 2))
    and all(
      abs(c.x - state.place.x(state.place.cover)) > 0.3
      for c in state.characters
    )
  ]
  chosen = free[: math.ceil(strength * len(free))]

  def change(i, state):
    segment = clip.segment(i)
    if segment not in chosen or not 0.45 < i / clip.length - segment < 0.55:
      return state, {}
    middle = state.camera + story_lib.ASPECT / 2

    def move(c):
      return dataclasses.replace(c, x=c.x + (0.5 if c.x < middle else -0.5))

    return _each(state, move), {}

  return clip.changed(change)


def flicker(clip: Clip, strength: float) -> np.ndarray:
  """Makes every second frame brighter."""
  frames = clip.frames.astype(np.float32)
  frames[::2] *= 1 - 0.035 * strength
  return np.round(frames).astype(np.uint8)


def blur(clip: Clip, strength: float) -> np.ndarray:
  """Blurs all frames."""
  sigma = 1.5 * strength * clip.height / 64
  frames = clip.frames.astype(np.float32)
  return np.round(
    ndimage.gaussian_filter(frames, (0, sigma, sigma, 0), truncate=3)
  ).astype(np.uint8)


def _next_colour(colour: str, steps: int = 1) -> str:
  at = words.COLOURS.index(colour)
  return words.COLOURS[(at + steps) % len(words.COLOURS)]


def colour_drift(clip: Clip, strength: float) -> np.ndarray:
  """Turns the colours of characters slowly into other ones."""

  def change(i, state):
    share = strength * i / (clip.count - 1)
    paints = {}
    for c in state.characters:
      other = story_lib.Look(
        c.look.species,
        _next_colour(c.look.colour),
        c.look.accessory,
        _next_colour(c.look.accessory_colour),
      )
      a, b = render.Paint.of(c.look), render.Paint.of(other)
      paints[c.name] = render.Paint(
        *(
          pen_lib.mix(x, y, share)
          for x, y in zip(_colours(a), _colours(b), strict=True)
        )
      )
    return state, paints

  return clip.changed(change)


def _colours(paint: render.Paint) -> Iterator[pen_lib.Colour]:
  return (getattr(paint, f.name) for f in dataclasses.fields(paint))


def position_drift(clip: Clip, strength: float) -> np.ndarray:
  """Moves the places slowly to the side."""

  def change(i, state):
    moved = 0.25 * strength * i / (clip.count - 1)
    return dataclasses.replace(state, camera=state.camera + moved), {}

  return clip.changed(change)


def shuffled(clip: Clip, strength: float) -> np.ndarray:
  """Moves some segments to the place of others."""
  count = len(clip.story.segments)
  chosen = np.unique(
    np.linspace(0, count - 1, max(2, round(strength * count))).astype(int)
  )
  order = np.arange(count)
  order[chosen] = np.roll(chosen, max(1, len(chosen) // 2))
  n = clip.length
  return np.concatenate(
    [clip.frames[:1]]
    + [clip.frames[s * n + 1 : (s + 1) * n + 1] for s in order]
  )


def _swappable(story: story_lib.Story) -> list[int]:
  """Returns the scenes with the first two characters after both were seen."""
  first = {}
  for s, segment in enumerate(story.segments):
    for act in segment.acts:
      first.setdefault(act.character, s)
  if len(first) < 2:
    return []
  known = max(first[0], first[1])
  return sorted(
    {
      segment.scene
      for segment in story.segments
      if segment.scene > story.segments[known].scene
      and any(act.character < 2 for act in segment.acts)
    }
  )


def swapped(clip: Clip, strength: float) -> np.ndarray:
  """Exchanges two characters after a cut."""
  story = clip.story
  one, two = story.cast[0], story.cast[1]
  scenes = _swappable(story)
  first = scenes[-math.ceil(strength * len(scenes))]
  look = {one.name: two.look, two.name: one.look}

  def change(i, state):
    if story.segments[clip.segment(i)].scene < first:
      return state, {}
    return _each(
      state, lambda c: dataclasses.replace(c, look=look.get(c.name, c.look))
    ), {}

  return clip.changed(change)


def other_look(clip: Clip, strength: float) -> np.ndarray:
  """Changes attributes of the looks of characters that return."""
  story = clip.story
  first = {
    c.name: min(_returns(story, j), default=math.inf)
    for j, c in enumerate(story.cast)
  }

  def other(look: story_lib.Look) -> story_lib.Look:
    accessories, species = words.ACCESSORIES, words.SPECIES
    changes = dict(
      accessory=accessories[
        (accessories.index(look.accessory) + 1) % len(accessories)
      ],
      species=species[(species.index(look.species) + 1) % len(species)],
      colour=_next_colour(look.colour, 2),
    )
    if changes['colour'] == look.accessory_colour:
      changes['colour'] = _next_colour(look.colour, 3)
    names = list(changes)[: round(3 * strength)]
    return dataclasses.replace(look, **{name: changes[name] for name in names})

  def change(i, state):
    segment = clip.segment(i)

    def each(c):
      if segment < first[c.name]:
        return c
      return dataclasses.replace(c, look=other(c.look))

    return _each(state, each), {}

  return clip.changed(change)


def wrong_place(clip: Clip, strength: float) -> np.ndarray:
  """Shows other kinds of places, the same ones at every visit."""
  places = clip.story.places
  free = [k for k in words.PLACES if k not in {p.kind for p in places}]
  other = {
    place: dataclasses.replace(place, kind=kind)
    for place, kind in zip(places[: math.ceil(strength * len(places))], free)
  }

  def change(i, state):
    del i
    place = other.get(state.place, state.place)
    return dataclasses.replace(state, place=place), {}

  return clip.changed(change)


def reverted(clip: Clip, strength: float) -> np.ndarray:
  """Shows props as if they had never changed, after they did."""
  story = clip.story
  after = [
    s
    for s, segment in enumerate(story.segments)
    if (at := story.change_segment(segment.place)) is not None and s > at
  ]
  chosen = after[: math.ceil(strength * len(after))]

  def change(i, state):
    if clip.segment(i) not in chosen:
      return state, {}
    return dataclasses.replace(state, prop_change=0.0), {}

  return clip.changed(change)


def absent(clip: Clip, strength: float) -> np.ndarray:
  """Leaves the characters out of some segments."""
  count = len(clip.story.segments)
  # The first two segments introduce them.
  gone = range(2, 2 + math.ceil(strength * (count - 2)))

  def change(i, state):
    if clip.segment(i) not in gone:
      return state, {}
    return dataclasses.replace(state, characters=()), {}

  return clip.changed(change)


@dataclasses.dataclass(frozen=True)
class Degradation:
  """A degradation, and its effects on the axes.

  Attributes:
    apply: Function of a clip and a strength.
    lowers: Axes that it must lower, more with more of it.
    may: Axes that it may lower, too.
    because: Why it may.
  """

  apply: Callable[[Clip, float], np.ndarray]
  lowers: tuple[str, ...]
  may: tuple[str, ...] = ()
  because: str = ''

  @property
  def name(self) -> str:
    return self.apply.__name__.replace('_', ' ')


DEGRADATIONS = (
  Degradation(frozen, ('motion',), ('text',), 'actions are part of the text'),
  Degradation(jitter, ('motion',)),
  Degradation(jumps, ('motion',)),
  Degradation(flicker, ('motion',)),
  Degradation(blur, ('aesthetics',)),
  Degradation(
    colour_drift,
    ('consistency',),
    ('text',),
    'the text describes colours',
  ),
  Degradation(position_drift, ('consistency',)),
  Degradation(
    shuffled,
    ('text',),
    ('consistency', 'motion'),
    'names appear with other looks, and borders of segments become cuts',
  ),
  Degradation(swapped, ('text', 'consistency')),
  Degradation(
    other_look, ('consistency',), ('text',), 'the text describes the look'
  ),
  Degradation(wrong_place, ('text',)),
  Degradation(
    reverted, ('consistency',), ('text',), 'the text describes the change'
  ),
  Degradation(
    absent,
    ('text', 'consistency'),
    ('motion',),
    'nothing moves where nobody is',
  ),
)
