"""Stories of the cartoon world: everything that is true in them.

A story has a cast, places and segments of three seconds. A character's look and
a place's are the same in the complete story, and its captions describe them
once.
Scenes of one to four segments follow each other with hard cuts, so that later
scenes can be drawn correctly only from memory.

Lengths are shares of the picture's height: a picture is 1 high and 1.5 wide, a
place is `PLACE_WIDTH` wide. x runs to the right, y down.
"""

from __future__ import annotations

import dataclasses

from examples.cartoon import words

FPS = 16
SEGMENT_FRAMES = 48
ASPECT = 1.5  # width of a picture
PLACE_WIDTH = 2.1
MIDDLE = (PLACE_WIDTH - ASPECT) / 2  # left edge of the picture in the middle
SPLITS = ('train', 'validation', 'test')
SIDES = ('left', 'right')

# Positions in a place whose side is 'left'; 'right' is its mirror image.
_MAIN, _PROP, _LANDMARK, _COVER = 0.6, 1.0, 1.33, 1.6
_BESIDE = 0.16  # from the middle of a prop to a character that uses it
_OUTSIDE = 0.24  # from a character that has left to the edge of the picture


def outside(side: str, camera: float) -> float:
  """Returns the position of a character that has left the picture."""
  return camera - _OUTSIDE if side == 'left' else camera + ASPECT + _OUTSIDE


def direction(start: float, end: float) -> int:
  """Returns the direction from one position to another: -1 is left."""
  return 1 if end > start else -1


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


ATTRIBUTES = tuple(field.name for field in dataclasses.fields(Look))


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
    prop: Prop of the place, one of `words.PROPS`, or None.
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
  """The act of one character in one segment.

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
    new_character: Index of the character whose look the caption describes, or
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
