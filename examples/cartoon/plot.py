"""Draws the plot of a story: the place and the characters of each scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
from typing import TypeVar

import numpy as np

T = TypeVar('T')


class Dice:
  """Random decisions."""

  def __init__(self, rng: np.random.Generator):
    self.rng = rng

  def flip(self, share: float) -> bool:
    """Returns True in this share of the calls."""
    return bool(self.rng.random() < share)

  def choose(self, values: Sequence[T]) -> T:
    return values[int(self.rng.integers(len(values)))]


@dataclasses.dataclass(frozen=True)
class Scene:
  """A scene.

  Attributes:
    number: Number of the scene, from 0.
    place: Index of the place.
    segments: Number of segments.
    characters: Indices of the leading character, and perhaps a second one.
  """

  number: int
  place: int
  segments: int
  characters: tuple[int, ...]


class Plot:
  """Draws scenes one after the other.

  Attributes:
    met: Indices of the characters that were introduced, in order; whoever
      writes the scenes adds to it.
    visited: The same of places.
  """

  def __init__(
    self,
    dice: Dice,
    characters: int,
    places: int,
    pairs: float,
    absences: float,
  ):
    """Begins a plot; numbers and shares are those of `world.Settings`."""
    self._dice = dice
    self._characters = characters
    self._places = places
    self._pairs = pairs
    self._absences = absences
    self.met: list[int] = []
    self.visited: list[int] = []

  def _lengths(self, segments: int, low: int, high: int) -> list[int]:
    # Short stories have short scenes, or else nobody could return.
    high = max(low, min(high, segments // 3))
    out, rest = [], segments
    while rest:
      # Two draws: long scenes are less frequent.
      draws = [int(self._dice.rng.integers(low, high + 1)) for _ in range(2)]
      length = min(*draws, rest)
      out.append(length)
      rest -= length
    return out

  def scenes(self, segments: int, low: int, high: int) -> Iterator[Scene]:
    """Yields the scenes; each one depends on `met` and `visited`.

    Args:
      segments: Segments of the story.
      low: Minimum number of segments per scene.
      high: Maximum number of segments per scene.
    """
    dice = self._dice
    lengths = self._lengths(segments, low, high)
    last = len(lengths) - 1
    # The scene at which a character or a place that is away returns.
    back = last - int(dice.rng.integers(0, max(1, last // 4) + 1))
    if last > 4 and dice.flip(0.5):
      back = int(dice.rng.integers(4, last + 1))
    away = dice.choose([0, 1]) if dice.flip(self._absences) else None
    closed = dice.choose([0, 1]) if dice.flip(self._absences) else None
    if self._characters < 2 or last < 4:
      away = None
    if self._places < 3 or last < 4:
      closed = None
    scene = None
    for number, length in enumerate(lengths):
      gone, returns = 2 <= number < back, number == back
      place = self._next_place(
        scene, closed if gone else None, closed if returns else None
      )
      characters = self._next_characters(
        scene,
        place,
        length,
        away if gone else None,
        away if returns else None,
      )
      scene = Scene(number, place, length, characters)
      yield scene

  def _next_place(
    self, previous: Scene | None, closed: int | None, forced: int | None
  ) -> int:
    if previous is None:
      return 0
    if forced in self.visited and forced != previous.place:
      return forced
    new = [i for i in range(self._places) if i not in self.visited]
    old = [i for i in self.visited if i not in (previous.place, closed)]
    if new and (not old or self._dice.flip(0.5)):
      return new[0]
    if not old:  # Only the closed one is left.
      return next(i for i in self.visited if i != previous.place)
    return self._dice.choose(old)

  def _next_characters(
    self,
    previous: Scene | None,
    place: int,
    length: int,
    away: int | None,
    forced: int | None,
  ) -> tuple[int, ...]:
    dice = self._dice
    new = [i for i in range(self._characters) if i not in self.met]
    old = [i for i in self.met if i != away]
    # The second scene introduces a character; all others are away then.
    hurry = previous is not None and previous.number == 0
    if previous is None:
      leading = 0
    elif forced is not None and forced in self.met:
      leading = forced
    elif new and (hurry or not old or dice.flip(0.4)):
      leading = new[0]
    else:
      # Characters of the previous scene leave more often than not.
      rested = [i for i in old if i not in previous.characters]
      leading = dice.choose(rested if rested and dice.flip(0.6) else old)
    # A caption has room for one description of a character, and with that of a
    # place only for one character.
    crowded = leading not in self.met and place not in self.visited
    others = [i for i in old if i != leading]
    if length > 1 and new and new[0] != leading and leading in self.met:
      others.append(new[0])
    if others and dice.flip(self._pairs) and (not crowded or length > 1):
      return leading, dice.choose(others)
    return (leading,)
