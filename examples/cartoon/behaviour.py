"""Draws the acts of characters in a segment, and their ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses

from examples.cartoon import plot
from examples.cartoon import story as story_lib

_MARGIN = 0.12  # from a character that stands to the edge of the picture
_APART = 0.2  # between two characters that stand
_FAST = 0.4  # share of those who come or leave that run


@dataclasses.dataclass(frozen=True)
class Occasion:
  """The place and the camera of a segment, and the room for events.

  Attributes:
    place: Place.
    camera: Left edge of the picture at the beginning and at the end.
    leaves: Whether a character leaves.
    may_change: Whether the prop may be changed.
    brief: Whether the caption describes both the place and a character.
  """

  place: story_lib.Place
  camera: tuple[float, float]
  leaves: bool
  may_change: bool
  brief: bool


class Behaviour:
  """Draws the acts of one story's segments."""

  def __init__(
    self,
    dice: plot.Dice,
    names: Sequence[str],
    actions: Sequence[str],
    changes: float,
  ):
    """Begins a story; the last two arguments are those of `world.Settings`."""
    self._dice = dice
    self._names = names
    self._actions = actions
    self._changes = changes
    self._last: dict[int, str] = {}  # action of each character

  def acts(
    self,
    occasion: Occasion,
    previous: Mapping[int, story_lib.Act],
    arriving: Sequence[int],
  ) -> list[story_lib.Act] | None:
    """Draws the acts of a segment, the leading one first.

    Args:
      occasion: Place and camera of the segment, and the room for events.
      previous: Previous act of each character that is there, by its index.
      arriving: Indices of the characters that come in.

    Returns:
      Acts, or None if one cannot end in the picture.
    """
    place, end = occasion.place, occasion.camera[1]
    low, high = end + _MARGIN, end + story_lib.ASPECT - _MARGIN
    order = [*arriving, *self._dice.rng.permutation(list(previous)).tolist()]
    acts: list[story_lib.Act] = []
    for rank, i in enumerate(order):
      # Where the others stand at the end.
      taken = [act.end for act in acts]
      taken += [previous[j].end for j in order[rank + 1 :]]
      free = {
        word: x
        for word, x in place.spots().items()
        if low <= x <= high and all(abs(x - t) >= _APART for t in taken)
      }
      if i in arriving:
        act = self._enter(i, occasion, free)
      else:
        # The longest descriptions leave room for no more than a verb.
        if occasion.brief and place.kind == 'kitchen' and place.prop:
          free = {}
        others = [j for j in order if j != i]
        act = self._act(previous[i], occasion, free, others, rank)
      if act.action != 'leave' and not low <= act.end <= high:
        return None
      acts.append(act)
    return acts

  def _is_fast(self) -> bool:
    """Returns whether a character that comes or leaves runs."""
    return 'run' in self._actions and self._dice.flip(_FAST)

  def _enter(
    self, i: int, occasion: Occasion, free: Mapping[str, float]
  ) -> story_lib.Act:
    side = self._dice.choose(story_lib.SIDES)
    start = story_lib.outside(side, occasion.camera[0])
    ends = [x for word, x in free.items() if word != occasion.place.cover]
    ends = ends or list(free.values())
    # The nearer ones: the way is long.
    ends = sorted(ends, key=lambda x: abs(x - start))[:2]
    end = self._dice.choose(ends)
    facing = story_lib.direction(start, end)
    fast = self._is_fast()
    return story_lib.Act(i, 'enter', start, end, facing, side, fast=fast)

  def _act(
    self,
    previous: story_lib.Act,
    occasion: Occasion,
    free: Mapping[str, float],
    others: Sequence[int],
    rank: int,
  ) -> story_lib.Act:
    """Draws the act of a character that is there; rank 0 is the leading one."""
    i, x, item = previous.character, previous.end, previous.item
    place = occasion.place
    middle = occasion.camera[1] + story_lib.ASPECT / 2
    changes = (
      occasion.may_change
      and rank == 0
      and place.prop in free
      and self._dice.flip(self._changes)
    )
    free = {w: v for w, v in free.items() if abs(v - x) >= _APART}
    walkable = {w: v for w, v in free.items() if w != place.cover}

    def stay(action: str, target: str = '') -> story_lib.Act:
      return story_lib.Act(i, action, x, x, previous.facing, target, item)

    def go(
      action: str, target: str, end: float, fast: bool = False
    ) -> story_lib.Act:
      facing = story_lib.direction(x, end)
      return story_lib.Act(i, action, x, end, facing, target, item, fast)

    if item:
      if walkable and self._dice.flip(0.3 if rank else 0.8):
        target = self._dice.choose(list(walkable))
        return go('carry', target, walkable[target])
      return stay('hold')
    if occasion.leaves and rank == 0:
      side = 'left' if x < middle else 'right'
      end = story_lib.outside(side, occasion.camera[1])
      return go('leave', side, end, self._is_fast())
    if place.prop and changes:
      end = place.spots()[place.prop]
      facing = story_lib.direction(end, place.x(place.prop))
      return story_lib.Act(i, 'change', x, end, facing, place.prop)
    choices = [a for a in self._actions if a in ('jump', 'wave')]
    if walkable:
      choices += [a for a in self._actions if a in ('walk', 'run')]
    if 'fall' in self._actions and abs(x - place.x(place.cover)) >= 1e-6:
      choices.append('fall')
    if 'hide' in self._actions and place.cover in free:
      choices.append('hide')
    if rank and self._dice.flip(0.45) or not choices:
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
      return story_lib.Act(i, 'fall', x, x, story_lib.direction(x, middle))
    if action == 'wave' and others and self._dice.flip(0.7):
      return stay('wave', self._names[others[0]])
    return stay(action)
