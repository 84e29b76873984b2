"""Recognizes the act of a followed character.

Every action that could have led from the first position to the last one is
played by the world's own laws of motion, and compared with the track: position,
height above the ground, pose, and whether the character can be seen.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from examples.cartoon import motion
from examples.cartoon import quality
from examples.cartoon import sprites
from examples.cartoon import story as story_lib
from examples.cartoon import track as track_lib
from examples.cartoon import words

_NEAR = 0.05  # distance from the law that costs much, heights of the picture
_FAR = 2.0  # greatest cost of a distance
_JUMPING = ('stand', 'walk', 'air', 'wave', 'crouch')
_POSE = 0.12  # loss of a pose that costs much
_CHANGED = 0.1  # weight of a change of the prop for the act
_MIN_WAY = 0.1  # shortest way that is a walk
# Ways that were gone before the first frame.
_BACK = (0.0, 0.02, 0.04, 0.07, 0.1, 0.14)
_HOPELESS = 0.15  # higher cost at which an act is not looked at further
_EDGE = 0.12  # of the picture, where a character may be seen or not
_OUT = 0.03  # from the edge, where it cannot be seen well
_HIDDEN = (0.52, 0.96)  # times at which hiding ones may be out of sight
_SUNK = (0.64, 0.84)  # times at which they must be
# Distances from the law: perfect up to the first, worthless from the second.
_PATH = (0.02, 0.12)
_MOVED = 0.012  # least distance of a step that moves, per 1/16 of a segment
_TURNED = 0.04  # least loss of the previous pose if the pose changes
_MOVES = ('walk', 'run', 'carry', 'enter', 'leave', 'hide', 'change')
_NOBODY = story_lib.Character('', story_lib.Look('fox', 'red', 'hat', 'blue'))


@dataclasses.dataclass(frozen=True, eq=False)
class SeenAct:
  """The recognized act of a character.

  Attributes:
    act: Act with the smallest cost; `act.character` has no meaning.
    path: Nearness of the track to the act's own trajectory, 0 to 1.
    active: Number of steps in which the character moves.
    teleports: Number of steps that are faster than any motion of the world, or
      at which the character vanishes in the middle of the picture.
  """

  act: story_lib.Act
  path: float
  active: float
  teleports: int


@functools.cache
def _allowed(
  pose: motion.Pose, item: str, is_moving: bool, is_fast: bool
) -> tuple[int, ...]:
  """Returns the stances that may show a pose."""
  if is_moving and not item:
    names = ('run', 'walk', 'reach') if is_fast else ('walk', 'stand')
    return tuple(i for i, s in enumerate(sprites.STANCES) if s.name in names)
  distances = []
  for stance in sprites.STANCES:
    other = stance.pose
    distance = (
      abs(pose.swing - other.swing)
      + abs(pose.near_arm - other.near_arm) / 2
      + abs(pose.far_arm - other.far_arm) / 2
      + 1.5 * abs(pose.lean - other.lean)
      + 3 * abs(pose.height - other.height)
      + (9 if stance.item != item else 0)
    )
    distances.append(distance)
  least = min(distances)
  near = [i for i, d in enumerate(distances) if d <= least + 0.15]
  if sprites.STANCES[near[0]].name == 'stand':
    # The legs may be hidden.
    near += [i for i, s in enumerate(sprites.STANCES) if s.name == 'walk']
  return tuple(near)


def recognize(
  track: track_lib.Track, place: story_lib.Place, is_changed: bool = False
) -> SeenAct:
  """Recognizes the act of a character.

  Args:
    track: Its track, visible in one frame or more.
    place: Recognized place.
    is_changed: Whether the place's prop changes.
  """
  x, y = track.x[track.visible], track.y[track.visible]
  ground = float(np.percentile(y, 75))
  best: tuple[float, story_lib.Act, np.ndarray] | None = None
  for act in candidates(track, place, float(x[0]), float(x[-1])):
    act = _begun(track, act)
    if best and _least_cost(track, act) > best[0] + _HOPELESS:
      continue
    cost, errors = _compare(track, act, place, ground)
    if act.action == 'change':
      cost += -_CHANGED if is_changed else _CHANGED
    if best is None or cost < best[0]:
      best = cost, act, errors
  assert best is not None
  _, act, errors = best
  return SeenAct(
    act,
    float(quality.grade(errors, _PATH).mean()),
    _active(track),
    _teleports(track) + _vanishings(track, errors),
  )


def _begun(track: track_lib.Track, act: story_lib.Act) -> story_lib.Act:
  """Returns a moving act that began before the first frame of a track."""
  if act.start == act.end or act.action == 'enter':
    return act
  way = story_lib.direction(act.start, act.end)
  chosen = np.flatnonzero(track.visible)[:6]
  best = act, np.inf
  for back in _BACK:
    moved = dataclasses.replace(act, start=act.start - way * back)
    error = sum(
      abs(motion.position(moved, float(track.times[i])) - track.x[i])
      for i in chosen
    )
    if error < best[1]:
      best = moved, error
  return best[0]


def candidates(
  track: track_lib.Track, place: story_lib.Place, start: float, end: float
) -> list[story_lib.Act]:
  """Returns acts that begin and end about where a track does."""
  facing = int(track.facings[track.visible][-1])
  middle = float(np.median(track.x[track.visible]))
  found = [
    story_lib.Act(0, action, middle, middle, turned)
    for action in ('wait', 'wave', 'jump', 'fall')
    for turned in sprites.FACINGS
  ]
  found += [
    story_lib.Act(0, 'hold', middle, middle, facing, item=item)
    for item in words.ITEMS
  ]
  way = story_lib.direction(start, end)
  if abs(end - start) >= _MIN_WAY:
    found += [story_lib.Act(0, a, start, end, way) for a in ('walk', 'run')]
    found += [
      story_lib.Act(0, 'carry', start, end, way, item=item)
      for item in words.ITEMS
    ]
  cover = place.x(place.cover)
  turned = story_lib.direction(start, cover)
  found.append(story_lib.Act(0, 'hide', start, cover, turned))
  if place.prop:
    at = place.spots()[place.prop]
    turned = story_lib.direction(at, place.x(place.prop))
    found.append(story_lib.Act(0, 'change', start, at, turned, place.prop))
  for side, inward in zip(story_lib.SIDES, (1, -1)):
    first, last = (
      story_lib.outside(side, float(track.cameras[i])) for i in (0, -1)
    )
    for fast in (False, True):
      found += [
        story_lib.Act(0, 'enter', first, end, inward, side, fast=fast),
        story_lib.Act(0, 'leave', start, last, -inward, side, fast=fast),
      ]
  return found


def _least_cost(track: track_lib.Track, act: story_lib.Act) -> float:
  """Returns the cost of an act's positions alone."""
  cost = 0.0
  for i in np.flatnonzero(track.visible).tolist():
    t = float(track.times[i])
    if act.action == 'hide' and t > _HIDDEN[0]:
      break
    distance = abs(track.x[i] - motion.position(act, t))
    cost += min(_FAR, (distance / _NEAR) ** 2)
  return cost / len(track.times)


def _compare(
  track: track_lib.Track,
  act: story_lib.Act,
  place: story_lib.Place,
  ground: float,
) -> tuple[float, np.ndarray]:
  """Returns the cost of an act, and the distances from its trajectory."""
  errors = np.zeros(len(track.times))
  costs = np.zeros(len(track.times))
  arrival = motion.travel(act) if act.start != act.end else 0.0
  is_fast = act.action == 'run' or act.fast
  for i, t in enumerate(track.times):
    state = motion.character_state(_NOBODY, act, float(t), ground)
    at = state.x - track.cameras[i]
    inside = min(at, story_lib.ASPECT - at)
    may_hide = act.action == 'hide' and _HIDDEN[0] < t < _HIDDEN[1]
    if not track.visible[i]:
      if may_hide or inside <= _OUT or track.hidden[i]:
        continue
      behind = abs(state.x - place.x(place.cover)) < 0.2
      costs[i] = 0.3 if behind or inside <= _EDGE else 1.0
      errors[i] = 0.0 if behind or inside <= _EDGE else _PATH[1]
      continue
    if inside < -_EDGE:
      costs[i], errors[i] = 1.0, _PATH[1]
      continue
    dx, dy = track.x[i] - state.x, (ground - track.y[i]) - state.lift
    distance = float(np.hypot(dx, dy))
    if may_hide:  # Only a part is seen, and its position is not exact.
      costs[i] = 1.0 if _SUNK[0] < t < _SUNK[1] else min(1, distance / 0.2)
      continue
    if act.action == 'jump':  # By its height alone: the arms can have any pose.
      allowed = [k for k, s in enumerate(sprites.STANCES) if s.name in _JUMPING]
    else:
      allowed = list(_allowed(state.pose, state.item, t < arrival, is_fast))
    # A jump or a fall may face both sides, a walk may not.
    sides = [0, 1]
    if t < arrival:
      sides = [sprites.FACINGS.index(state.facing)]
    chosen = np.ix_(allowed, sides)
    offsets = track.offsets[i][chosen] + (dx, -dy)
    far = np.square(offsets).sum(-1) / _NEAR**2
    cost = np.minimum(_FAR, far) + np.minimum(
      1, track.losses[i][chosen] / _POSE
    )
    costs[i] = cost.min()
    errors[i] = _NEAR * float(far.flat[cost.argmin()]) ** 0.5
  return float(costs.mean()), errors


def _active(track: track_lib.Track) -> float:
  """Returns the number of steps in which something moves."""
  total = 0.0
  spacing = _spacing(track)
  for i in range(len(track.times) - 1):
    j = i + 1
    if track.visible[i] != track.visible[j]:
      total += 1
    elif track.visible[i]:
      moved = np.hypot(track.x[j] - track.x[i], track.y[j] - track.y[i])
      previous = np.unravel_index(
        track.losses[i].argmin(), track.losses[i].shape
      )
      total += bool(
        moved > _MOVED * spacing or track.losses[j][previous] > _TURNED
      )
  return total


def expected_active(act: story_lib.Act, times: np.ndarray) -> float:
  """Returns the number of steps in which a character must move in an act.

  Arms that are waved do not count: they are not seen well.
  """
  states = [motion.character_state(_NOBODY, act, float(t), 0.9) for t in times]
  spacing = float(np.median(np.diff(times))) * 16
  total = 0.0
  for a, b in zip(states, states[1:]):
    moved = np.hypot(b.x - a.x, b.lift - a.lift)
    turned = max(
      abs(a.pose.lean - b.pose.lean), 3 * abs(a.pose.height - b.pose.height)
    )
    total += bool(moved > _MOVED * spacing or turned > 0.2)
  return total


def _spacing(track: track_lib.Track) -> float:
  return float(np.median(np.diff(track.times))) * 16


def _teleports(track: track_lib.Track) -> int:
  """Returns the number of steps that are too fast."""
  frames = np.diff(track.times) * story_lib.SEGMENT_FRAMES
  both = track.visible[1:] & track.visible[:-1]
  step = np.hypot(np.diff(track.x), np.diff(track.y))
  return int((both & (step > 1.3 * motion.MAX_SPEED * frames + 0.03)).sum())


def _vanishings(track: track_lib.Track, errors: np.ndarray) -> int:
  """Returns how often a character is out of sight without a reason."""
  gone = ~track.visible & (errors >= _PATH[1])
  inner = gone[1:-1] & track.visible[:-2]
  return int(
    sum(inner[i] and track.visible[i + 2 :].any() for i in range(len(inner)))
  )


def told_act(action: str, target: str, item: str) -> story_lib.Act:
  """Returns a usual act of an action, for its amount of motion."""
  way = 0.45 if action in _MOVES else 0.0
  if action in ('enter', 'leave'):
    way = 0.9
  return story_lib.Act(0, action, 0.5, 0.5 + way, 1, target, item)
