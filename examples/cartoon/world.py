"""Draws the stories of the cartoon world at random.

`plot` draws the place and the characters of each scene, `behaviour` their acts.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import itertools

import numpy as np

from examples.cartoon import behaviour
from examples.cartoon import plot
from examples.cartoon import story as story_lib
from examples.cartoon import words

ACTIONS = ('walk', 'run', 'jump', 'wave', 'carry', 'fall', 'hide')
VERSION = 1  # of `draw_story`: a seed has the same story in all programs


def _check_range(name: str, value: int, low: int, high: int) -> None:
  if not low <= value <= high:
    raise ValueError(f'{name} is {value}; expected {low} to {high}')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Choices of `draw_story`. Numbers of words take the first ones of a list.

  Attributes:
    names: Number of `words.NAMES`.
    species: Number of `words.SPECIES`.
    colours: Number of `words.COLOURS`, of bodies, accessories and places.
    accessories: Number of `words.ACCESSORIES`.
    places: Number of `words.PLACES`.
    props: Number of `words.PROPS`.
    items: Number of `words.ITEMS`.
    actions: Actions that are drawn, of `ACTIONS`. Characters also wait, enter
      and leave.
    cast: Minimum and maximum number of characters per story.
    visited: Minimum and maximum number of places per story.
    scene: Minimum and maximum number of segments per scene.
    pairs: Share of scenes with two characters, where the caption has room.
    entries: Share of these in which the second one comes in later.
    exits: Share of scenes at whose end a character leaves.
    carries: Share of appearances in which a character carries an item.
    with_prop: Share of places that have a prop.
    changes: Share of segments with an unchanged prop in which it is changed.
    pans: Share of segments in which the camera pans.
    absences: Share of stories in which one character, and independently one
      place, is seen in the first two scenes, and then not for a long time.
    wordings: Number of sentence forms; 1 writes only the plainest, 3 all.
  """

  names: int = 12
  species: int = 5
  colours: int = 6
  accessories: int = 4
  places: int = 6
  props: int = 4
  items: int = 3
  actions: tuple[str, ...] = ACTIONS
  cast: tuple[int, int] = (2, 3)
  visited: tuple[int, int] = (2, 4)
  scene: tuple[int, int] = (1, 4)
  pairs: float = 0.5
  entries: float = 0.5
  exits: float = 0.25
  carries: float = 0.15
  with_prop: float = 0.75
  changes: float = 0.35
  pans: float = 0.12
  absences: float = 0.5
  wordings: int = 3

  def __post_init__(self):
    for name, known, least in (
      ('names', words.NAMES, 2),
      ('species', words.SPECIES, 1),
      ('colours', words.COLOURS, 3),
      ('accessories', words.ACCESSORIES, 1),
      ('places', words.PLACES, 2),
      ('props', words.PROPS, 0),
      ('items', words.ITEMS, 0),
      ('wordings', ('', '', ''), 1),
    ):
      _check_range(name, getattr(self, name), least, len(known))
    for name, most in (
      ('cast', min(self.names, self.colours)),
      ('visited', self.places),
      ('scene', 20),
    ):
      low, high = getattr(self, name)
      _check_range(name, low, 2 if name == 'visited' else 1, most)
      _check_range(name, high, low, most)
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, float) and not 0 <= value <= 1:
        raise ValueError(f'{field.name} is {value}; expected 0 to 1')
    unknown = set(self.actions) - set(ACTIONS)
    if unknown or not {'walk', 'run', 'jump'} & set(self.actions):
      raise ValueError(
        f'actions are {", ".join(self.actions) or "none"}; expected some of'
        f' {", ".join(ACTIONS)}, with walk, run or jump'
      )


SETTINGS = {
  'full': Settings(),
  'simple': Settings(
    names=6,
    species=3,
    colours=4,
    accessories=2,
    places=3,
    props=2,
    items=1,
    actions=('walk', 'run', 'jump', 'wave'),
    cast=(2, 2),
    visited=(2, 3),
    scene=(1, 3),
    entries=0.0,
    exits=0.0,
    carries=0.0,
    with_prop=0.5,
    pans=0.0,
    wordings=1,
  ),
}


def split_of(look: story_lib.Look) -> str:
  """Returns the only split whose stories have characters of this look.

  A tenth of the looks is validation's and a tenth is test's, by the first byte
  of the SHA-256 of 'species colour accessory accessory_colour'.
  """
  text = ' '.join(dataclasses.astuple(look))
  share = hashlib.sha256(text.encode()).digest()[0] / 256
  return 'test' if share < 0.1 else 'validation' if share < 0.2 else 'train'


@functools.cache
def looks(settings: Settings, split: str) -> tuple[story_lib.Look, ...]:
  """Returns all looks of a split, see `split_of`."""
  colours = words.COLOURS[: settings.colours]
  every = itertools.product(
    words.SPECIES[: settings.species],
    colours,
    words.ACCESSORIES[: settings.accessories],
    colours,
  )
  return tuple(
    look
    for look in itertools.starmap(story_lib.Look, every)
    if look.colour != look.accessory_colour and split_of(look) == split
  )


def draw_story(
  seed: int,
  segments: int = 21,
  settings: Settings = SETTINGS['full'],
  split: str = 'train',
) -> story_lib.Story:
  """Draws a story.

  Stories of different splits never have a look in common, nor random numbers.

  Args:
    seed: Seed, 0 or more; every split has its own stories for it.
    segments: Number of segments.
    settings: Choices.
    split: One of `story_lib.SPLITS`.

  Raises:
    ValueError: the split is unknown, the seed is negative, the number of
      segments is not 1 to 200, or the split has too few looks.
  """
  if split not in story_lib.SPLITS:
    raise ValueError(
      f'split is {split!r}; expected one of {", ".join(story_lib.SPLITS)}'
    )
  if seed < 0:
    raise ValueError(f'seed is {seed}; expected 0 or more')
  _check_range('segments', segments, 1, 200)
  return _Author(seed, segments, settings, split).story()


class _Author:
  """Writes one story, scene by scene."""

  def __init__(self, seed: int, segments: int, settings: Settings, split: str):
    self._dice = plot.Dice(
      np.random.default_rng([VERSION, story_lib.SPLITS.index(split), seed])
    )
    self._count = segments
    self._settings = settings
    self._split = split
    self._seed = seed
    self._cast = self._draw_cast()
    self._places = self._draw_places()
    self._plot = plot.Plot(
      self._dice,
      len(self._cast),
      len(self._places),
      settings.pairs,
      settings.absences,
    )
    names = [character.name for character in self._cast]
    self._behaviour = behaviour.Behaviour(
      self._dice, names, settings.actions, settings.changes
    )
    self._changed: set[int] = set()  # places
    self._segments: list[story_lib.Segment] = []

  def _draw_cast(self) -> tuple[story_lib.Character, ...]:
    settings, rng = self._settings, self._dice.rng
    low, high = settings.cast
    count = min(int(rng.integers(low, high + 1)), 1 + self._count // 2)
    names = rng.permutation(settings.names)[:count]
    free = list(looks(settings, self._split))
    cast: list[story_lib.Character] = []
    for name in names:
      if not free:
        raise ValueError(
          f'the split {self._split!r} has too few looks for a cast of {count};'
          ' choose more species, colours or accessories'
        )
      look = self._dice.choose(free)
      cast.append(story_lib.Character(words.NAMES[name], look))
      free = [each for each in free if each.colour != look.colour]
    return tuple(cast)

  def _draw_places(self) -> tuple[story_lib.Place, ...]:
    settings, rng = self._settings, self._dice.rng
    low, high = settings.visited
    count = min(int(rng.integers(low, high + 1)), max(1, self._count // 2 + 1))
    kinds = rng.permutation(settings.places)[:count]
    colours = rng.permutation(settings.colours)
    props = rng.permutation(settings.props)
    return tuple(
      story_lib.Place(
        words.PLACES[kind],
        words.COLOURS[colours[i % len(colours)]],
        self._dice.choose(story_lib.SIDES),
        words.PROPS[props[i]]
        if i < len(props) and self._dice.flip(settings.with_prop)
        else None,
      )
      for i, kind in enumerate(kinds)
    )

  def story(self) -> story_lib.Story:
    low, high = self._settings.scene
    for scene in self._plot.scenes(self._count, low, high):
      self._write_scene(scene)
    return self._number()

  def _number(self) -> story_lib.Story:
    """Returns the story with only the characters and places that are seen."""
    met, visited = self._plot.met, self._plot.visited
    segments = tuple(
      dataclasses.replace(
        segment,
        place=visited.index(segment.place),
        acts=tuple(
          dataclasses.replace(act, character=met.index(act.character))
          for act in segment.acts
        ),
        new_character=None
        if segment.new_character is None
        else met.index(segment.new_character),
      )
      for segment in self._segments
    )
    return story_lib.Story(
      name=f'{self._split}_{self._seed:06d}',
      split=self._split,
      seed=self._seed,
      wordings=self._settings.wordings,
      cast=tuple(self._cast[i] for i in met),
      places=tuple(self._places[i] for i in visited),
      segments=segments,
    )

  def _write_scene(self, scene: plot.Scene) -> None:
    settings = self._settings
    length, characters = scene.segments, scene.characters
    place = self._places[scene.place]
    camera = story_lib.MIDDLE
    crowded = (
      characters[0] not in self._plot.met
      and scene.place not in self._plot.visited
    )
    entry = self._entry(scene, crowded)
    exits = self._dice.flip(settings.exits)
    previous: dict[int, story_lib.Act] = {}
    for step in range(length):
      new_place = scene.place not in self._plot.visited
      arriving: list[int] = []
      if step == 0:
        present = characters if entry == 0 else characters[:1]
        previous = self._begin(place, present, crowded)
      elif step == entry and len(characters) == 2:
        arriving = [characters[1]]
      new = [i for i in [*previous, *arriving] if i not in self._plot.met]
      target_camera = camera
      # A caption has no room for a pan and a description.
      if not new_place and not new and self._dice.flip(settings.pans):
        ends = (0.0, story_lib.MIDDLE, 2 * story_lib.MIDDLE)
        target_camera = self._dice.choose([c for c in ends if c != camera])
      occasion = behaviour.Occasion(
        place,
        (camera, target_camera),
        leaves=exits and step == length - 1 and step > 0,
        may_change=not new_place and scene.place not in self._changed,
        brief=crowded and new_place,
      )
      acts = self._behaviour.acts(occasion, previous, arriving)
      if acts is None:  # A pan may leave somebody outside.
        target_camera = camera
        occasion = dataclasses.replace(occasion, camera=(camera, camera))
        acts = self._behaviour.acts(occasion, previous, arriving)
      assert acts is not None
      for act in acts:
        previous[act.character] = act
        if act.action == 'leave':
          del previous[act.character]
        if act.action == 'change':
          self._changed.add(scene.place)
      self._segments.append(
        story_lib.Segment(
          scene=scene.number,
          place=scene.place,
          acts=tuple(acts),
          camera=(camera, target_camera),
          new_character=new[0] if new else None,
          new_place=new_place,
          wording=int(self._dice.rng.integers(2**31)),
        )
      )
      camera = target_camera
      self._plot.met += new
      if new_place:
        self._plot.visited.append(scene.place)

  def _entry(self, scene: plot.Scene, crowded: bool) -> int:
    """Returns the segment of a scene at which the second character comes in."""
    if len(scene.characters) < 2 or scene.segments == 1:
      return 0
    is_new = scene.characters[1] not in self._plot.met
    if crowded or is_new or self._dice.flip(self._settings.entries):
      return int(self._dice.rng.integers(1, scene.segments))
    return 0

  def _begin(
    self, place: story_lib.Place, present: Sequence[int], crowded: bool
  ) -> dict[int, story_lib.Act]:
    """Draws acts that end where the characters are when a scene begins."""
    settings = self._settings
    starts = self._dice.rng.permutation(
      [x for word, x in place.spots().items() if word != place.cover]
    )
    acts: dict[int, story_lib.Act] = {}
    can_carry = settings.items and 'carry' in settings.actions and not crowded
    for i, x in zip(present, starts.tolist()):
      item = ''
      if can_carry and self._dice.flip(settings.carries):
        item = self._dice.choose(words.ITEMS[: settings.items])
        can_carry = False
      facing = story_lib.direction(x, story_lib.PLACE_WIDTH / 2)
      acts[i] = story_lib.Act(i, 'wait', x, x, facing, item=item)
    return acts
