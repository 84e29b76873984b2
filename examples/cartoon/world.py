"""Stories of the cartoon world, with everything that is true in them.

A story has a cast, places and segments of three seconds. A character's look and
a place's are drawn anew in every story, and its captions tell them once. Scenes
of one to four segments follow each other with hard cuts, so that later scenes
can be drawn correctly only from memory.

Lengths are shares of the picture's height: a picture is 1 high and 1.5 wide, a
place is `PLACE_WIDTH` wide. x runs to the right, y down.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools

import numpy as np

from examples.cartoon import plot
from examples.cartoon import words

FPS = 16
SEGMENT_FRAMES = 48
ASPECT = 1.5  # width of a picture
PLACE_WIDTH = 2.1
MIDDLE = (PLACE_WIDTH - ASPECT) / 2  # left edge of the picture in the middle
SPLITS = ('train', 'validation', 'test')
SIDES = ('left', 'right')
MOVES = ('walk', 'run', 'carry', 'enter', 'leave', 'hide', 'change')
ACTIONS = ('walk', 'run', 'jump', 'wave', 'carry', 'fall', 'hide')

# Positions in a place whose side is 'left'; 'right' is its mirror image.
_MAIN, _PROP, _LANDMARK, _COVER = 0.6, 1.0, 1.33, 1.6
_BESIDE = 0.16  # from the middle of a prop to a character that uses it
_MARGIN = 0.12  # from a character that stands to the edge of the picture
_OUTSIDE = 0.24  # from a character that has left to the edge
_APART = 0.2  # between two characters that stand
VERSION = 1  # of `draw_story`: a seed has the same story in all programs


@dataclasses.dataclass(frozen=True)
class Look:
  """The look of a character.

  Attributes:
    species: One of `words.SPECIES`.
    colour: Colour of the body, one of `words.COLOURS`.
    accessory: One of `words.ACCESSORIES`.
    accessory_colour: Another one of `words.COLOURS`.
  """

  species: str
  colour: str
  accessory: str
  accessory_colour: str


@dataclasses.dataclass(frozen=True)
class Character:
  """A named character."""

  name: str
  look: Look


@dataclasses.dataclass(frozen=True)
class Place:
  """A place.

  Attributes:
    kind: One of `words.PLACES`.
    colour: Colour of its main object, one of `words.COLOURS`.
    side: Side of the main object, seen from the landmark: 'left' or 'right'.
    prop: Prop that stands there, one of `words.PROPS`, or None.
  """

  kind: str
  colour: str
  side: str
  prop: str | None

  @property
  def main(self) -> str:
    """Word of the main object: the stove in the kitchen, else the kind."""
    return 'stove' if self.kind == 'kitchen' else self.kind

  @property
  def landmark(self) -> str:
    return words.LANDMARKS[words.PLACES.index(self.kind)]

  @property
  def cover(self) -> str:
    """Word of the object that characters hide behind."""
    return words.COVERS[words.PLACES.index(self.kind)]

  def mirror(self, x: float) -> float:
    """Returns a position of the layout 'left' in this place's."""
    return x if self.side == 'left' else PLACE_WIDTH - x

  def x(self, word: str) -> float:
    """Returns the position of the middle of an object."""
    return self.mirror(
      {
        self.main: _MAIN,
        self.prop: _PROP,
        self.landmark: _LANDMARK,
        self.cover: _COVER,
      }[word]
    )

  def spots(self) -> dict[str, float]:
    """Returns where characters stand, by the word of the object."""
    objects = [self.main, self.landmark, self.cover]
    out = {word: self.x(word) for word in objects}
    if self.prop:
      out[self.prop] = self.mirror(_PROP - _BESIDE)
    return out


@dataclasses.dataclass(frozen=True)
class Act:
  """What one character does in one segment.

  Attributes:
    character: Index in the cast.
    action: 'walk', 'run', 'jump', 'wave', 'carry' (walk with an item), 'hold'
      (stand with it), 'fall', 'hide', 'wait', 'enter', 'leave' or 'change' (of
      the prop).
    start: Position x at the beginning.
    end: Position x at the end.
    facing: Direction at the beginning if it stands, and at the end: -1 is left.
    target: Word of the object that it moves to; of 'enter' and 'leave' the
      side of the picture; of 'wave' the name of the other character; else ''.
    item: Item that it carries, one of `words.ITEMS`, or ''.
    fast: Whether 'enter' and 'leave' run.
  """

  character: int
  action: str
  start: float
  end: float
  facing: int
  target: str = ''
  item: str = ''
  fast: bool = False


@dataclasses.dataclass(frozen=True)
class Segment:
  """Three seconds of a story.

  Attributes:
    scene: Number of the scene, from 0.
    place: Index of the place.
    acts: One act for each character that is seen, the leading one first.
    camera: Left edge of the picture at the beginning and at the end.
    new_character: Index of the character whose look the caption tells, or
      None.
    new_place: Whether the caption describes the place.
    wording: Seed of the caption's words.
  """

  scene: int
  place: int
  acts: tuple[Act, ...]
  camera: tuple[float, float]
  new_character: int | None
  new_place: bool
  wording: int


@dataclasses.dataclass(frozen=True)
class Story:
  """A story; everything in its frames and captions follows from it.

  Attributes:
    name: Unique name, of the split and the seed.
    split: One of `SPLITS`.
    seed: Seed within the split.
    wordings: `Settings.wordings`.
    cast: Characters.
    places: Places.
    segments: Segments in order.
  """

  name: str
  split: str
  seed: int
  wordings: int
  cast: tuple[Character, ...]
  places: tuple[Place, ...]
  segments: tuple[Segment, ...]

  @property
  def num_frames(self) -> int:
    return SEGMENT_FRAMES * len(self.segments) + 1

  def change_segment(self, place: int) -> int | None:
    """Returns the index of the segment in which a place's prop changes."""
    for i, segment in enumerate(self.segments):
      if segment.place == place and any(
        act.action == 'change' for act in segment.acts
      ):
        return i
    return None


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


def split_of(look: Look) -> str:
  """Returns the only split whose stories have characters of this look.

  A tenth of the looks is validation's and a tenth is test's, by the first byte
  of the SHA-256 of 'species colour accessory accessory_colour'.
  """
  text = ' '.join(dataclasses.astuple(look))
  share = hashlib.sha256(text.encode()).digest()[0] / 256
  return 'test' if share < 0.1 else 'validation' if share < 0.2 else 'train'


@functools.cache
def looks(settings: Settings, split: str) -> tuple[Look, ...]:
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
    for look in itertools.starmap(Look, every)
    if look.colour != look.accessory_colour and split_of(look) == split
  )


def draw_story(
  seed: int,
  segments: int = 21,
  settings: Settings = SETTINGS['full'],
  split: str = 'train',
) -> Story:
  """Draws a story.

  Stories of different splits never have a look in common, nor random numbers.

  Args:
    seed: Seed, 0 or more; every split has its own stories for it.
    segments: Number of segments.
    settings: Choices.
    split: One of `SPLITS`.

  Raises:
    ValueError: the split is unknown, the seed is negative, the number of
      segments is not 1 to 200, or the split has too few looks.
  """
  if split not in SPLITS:
    raise ValueError(f'split is {split!r}; expected one of {", ".join(SPLITS)}')
  if seed < 0:
    raise ValueError(f'seed is {seed}; expected 0 or more')
  _check_range('segments', segments, 1, 200)
  rng = np.random.default_rng([VERSION, SPLITS.index(split), seed])
  return _Author(rng, segments, settings, split, seed).story()


class _Author:
  """Writes one story, scene by scene."""

  def __init__(
    self,
    rng: np.random.Generator,
    segments: int,
    settings: Settings,
    split: str,
    seed: int,
  ):
    self._dice = plot.Dice(rng)
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
    self._changed: set[int] = set()  # places
    self._segments: list[Segment] = []
    self._last: dict[int, str] = {}  # action of each character

  def _draw_cast(self) -> tuple[Character, ...]:
    settings, rng = self._settings, self._dice.rng
    low, high = settings.cast
    count = min(int(rng.integers(low, high + 1)), 1 + self._count // 2)
    names = rng.permutation(settings.names)[:count]
    free = list(looks(settings, self._split))
    cast: list[Character] = []
    for name in names:
      if not free:
        raise ValueError(
          f'the split {self._split!r} has too few looks for a cast of {count};'
          ' choose more species, colours or accessories'
        )
      look = self._dice.choose(free)
      cast.append(Character(words.NAMES[name], look))
      free = [each for each in free if each.colour != look.colour]
    return tuple(cast)

  def _draw_places(self) -> tuple[Place, ...]:
    settings, rng = self._settings, self._dice.rng
    low, high = settings.visited
    count = min(int(rng.integers(low, high + 1)), max(1, self._count // 2 + 1))
    kinds = rng.permutation(settings.places)[:count]
    colours = rng.permutation(settings.colours)
    props = rng.permutation(settings.props)
    return tuple(
      Place(
        words.PLACES[kind],
        words.COLOURS[colours[i % len(colours)]],
        self._dice.choose(SIDES),
        words.PROPS[props[i]]
        if i < len(props) and self._dice.flip(settings.with_prop)
        else None,
      )
      for i, kind in enumerate(kinds)
    )

  def story(self) -> Story:
    low, high = self._settings.scene
    for scene in self._plot.scenes(self._count, low, high):
      self._write_scene(scene)
    return self._number()

  def _number(self) -> Story:
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
    return Story(
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
    place_index, length = scene.place, scene.segments
    characters = scene.characters
    place = self._places[place_index]
    camera = MIDDLE
    crowded = (
      characters[0] not in self._plot.met
      and place_index not in self._plot.visited
    )
    entry = 0  # segment at which the second character comes in
    if len(characters) == 2 and length > 1:
      is_new = not set(characters) <= set(self._plot.met)
      both_new = characters[1] not in self._plot.met
      if crowded or (is_new and both_new) or self._dice.flip(settings.entries):
        entry = int(self._dice.rng.integers(1, length))
    exits = self._dice.flip(settings.exits)
    positions: dict[int, float] = {}
    facing: dict[int, int] = {}
    items: dict[int, str] = {}
    spots = place.spots()
    for step in range(length):
      new_place = place_index not in self._plot.visited
      arriving: list[int] = []
      if step == 0:
        present = characters if entry == 0 else characters[:1]
        starts = self._dice.rng.permutation(
          [x for w, x in spots.items() if w != place.cover]
        )
        for i, x in zip(present, starts):
          positions[i] = float(x)
          facing[i] = 1 if x < PLACE_WIDTH / 2 else -1
          if settings.items and 'carry' in settings.actions:
            can = not crowded and not items
            if can and self._dice.flip(settings.carries):
              items[i] = self._dice.choose(words.ITEMS[: settings.items])
      elif step == entry and len(characters) == 2:
        arriving = [characters[1]]
      new = [i for i in [*positions, *arriving] if i not in self._plot.met]
      target_camera = camera
      # A caption has no room for a pan and a description.
      if not new_place and not new and self._dice.flip(settings.pans):
        options = [0.0, MIDDLE, PLACE_WIDTH - ASPECT]
        target_camera = self._dice.choose([c for c in options if c != camera])
      acts: list[Act] | None = None
      for end in (target_camera, camera):  # A pan may leave somebody outside.
        if acts is None:
          target_camera = end
          acts = self._write_acts(
            place,
            place_index,
            positions,
            facing,
            items,
            arriving,
            (camera, end),
            leaves=exits and step == length - 1 and step > 0,
            settled=not new_place,
            brief=crowded and new_place,
          )
      assert acts is not None
      for act in acts:
        positions[act.character] = act.end
        facing[act.character] = act.facing
        if act.action == 'leave':
          del positions[act.character]
        if act.action == 'change':
          self._changed.add(place_index)
      self._segments.append(
        Segment(
          scene=scene.number,
          place=place_index,
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
        self._plot.visited.append(place_index)

  def _write_acts(
    self,
    place: Place,
    place_index: int,
    positions: dict[int, float],
    facing: dict[int, int],
    items: dict[int, str],
    arriving: list[int],
    camera: tuple[float, float],
    leaves: bool,
    settled: bool,
    brief: bool,
  ) -> list[Act] | None:
    """Returns the acts of a segment; None if one cannot end in the picture."""
    settings = self._settings
    low, high = camera[1] + _MARGIN, camera[1] + ASPECT - _MARGIN
    order = [*arriving, *self._dice.rng.permutation(list(positions)).tolist()]
    acts: list[Act] = []
    for rank, i in enumerate(order):
      # Where the others stand at the end.
      taken = [act.end for act in acts]
      taken += [positions[j] for j in order[rank + 1 :]]
      free = {
        word: x
        for word, x in place.spots().items()
        if low <= x <= high and all(abs(x - t) >= _APART for t in taken)
      }
      if i in arriving:
        act = self._enter(i, place, free, camera[0])
      else:
        # The longest descriptions leave room for no more than a verb.
        if brief and place.kind == 'kitchen' and place.prop:
          free = {}
        act = self._act(
          i,
          place,
          positions[i],
          facing[i],
          items.get(i, ''),
          {w: x for w, x in free.items() if abs(x - positions[i]) >= _APART},
          camera,
          others=[j for j in order if j != i],
          leaves=leaves and rank == 0,
          changes=settled
          and rank == 0
          and place.prop is not None
          and place_index not in self._changed
          and place.prop in free
          and self._dice.flip(settings.changes),
          second=rank > 0,
        )
      if act.action != 'leave' and not low <= act.end <= high:
        return None
      acts.append(act)
    return acts

  def _enter(
    self, i: int, place: Place, free: dict[str, float], camera: float
  ) -> Act:
    side = self._dice.choose(SIDES)
    start = camera - _OUTSIDE if side == 'left' else camera + ASPECT + _OUTSIDE
    ends = [x for word, x in free.items() if word != place.cover]
    ends = ends or list(free.values())
    # The nearer ones: the way is long.
    ends = sorted(ends, key=lambda x: abs(x - start))[:2]
    end = self._dice.choose(ends)
    return Act(
      character=i,
      action='enter',
      start=start,
      end=end,
      facing=1 if end > start else -1,
      target=side,
      fast='run' in self._settings.actions and self._dice.flip(0.4),
    )

  def _act(
    self,
    i: int,
    place: Place,
    x: float,
    facing: int,
    item: str,
    free: dict[str, float],
    camera: tuple[float, float],
    others: list[int],
    leaves: bool,
    changes: bool,
    second: bool,
  ) -> Act:
    actions = self._settings.actions
    at_cover = abs(x - place.x(place.cover)) < 1e-6
    walkable = {w: v for w, v in free.items() if w != place.cover}

    def stay(action: str, target: str = '') -> Act:
      return Act(i, action, x, x, facing, target, item)

    def go(action: str, target: str, end: float, fast: bool = False) -> Act:
      turned = 1 if end > x else -1
      return Act(i, action, x, end, turned, target, item, fast)

    if item:
      if walkable and self._dice.flip(0.3 if second else 0.8):
        target = self._dice.choose(list(walkable))
        return go('carry', target, walkable[target])
      return stay('hold')
    if leaves:
      side = 'left' if x - camera[1] < ASPECT / 2 else 'right'
      edge = camera[1] + (-_OUTSIDE if side == 'left' else ASPECT + _OUTSIDE)
      fast = 'run' in actions and self._dice.flip(0.4)
      return go('leave', side, edge, fast)
    if changes:
      assert place.prop is not None
      end = place.spots()[place.prop]
      to_prop = 1 if place.x(place.prop) > end else -1
      return Act(i, 'change', x, end, to_prop, place.prop)
    choices = [a for a in actions if a in ('jump', 'wave')]
    if walkable:
      choices += [a for a in actions if a in ('walk', 'run')]
    if 'fall' in actions and not at_cover:
      choices.append('fall')
    if 'hide' in actions and place.cover in free:
      choices.append('hide')
    if second and self._dice.flip(0.45) or not choices:
      return stay('wait')
    action = self._dice.choose(
      [a for a in choices if a != self._last.get(i)] or choices
    )
    self._last[i] = action
    if action in ('walk', 'run'):
      target = self._dice.choose(list(walkable))
      return go(action, target, walkable[target])
    if action == 'hide':
      return go('hide', place.cover, free[place.cover])
    if action == 'fall':  # Towards the middle of the picture.
      towards = 1 if x < camera[1] + ASPECT / 2 else -1
      return Act(i, 'fall', x, x, towards)
    if action == 'wave' and others and self._dice.flip(0.7):
      return stay('wave', self._cast[others[0]].name)
    return stay(action)
