"""Memory events: each return of a subject, compared with its first appearance.

The first appearance is the one in the video, whether it agrees with the text or
not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import itertools

import numpy as np

from examples.cartoon import identity
from examples.cartoon import quality
from examples.cartoon import script
from examples.cartoon import sight
from examples.cartoon import story as story_lib
from ttt_jax.evaluation import story_scores

_SECONDS = story_lib.SEGMENT_FRAMES / story_lib.FPS
# Distances of two measured colours: the same up to the first, and another from
# the second one on. The nearest two colours of characters have 0.42.
_COLOUR = (0.1, 0.35)
# The same for the position of a place, in heights of the picture.
_POSITION = (0.04, 0.25)


def names_of(told: script.Script) -> list[list[str]]:
  """Returns the names in every segment."""
  return [
    list(dict.fromkeys(act.name for act in segment.acts))
    for segment in told.segments
  ]


def told_look(look: story_lib.Look | None) -> tuple[str, ...]:
  """Returns the words of a look; '' for everything that is not told."""
  return dataclasses.astuple(look or story_lib.Look('', '', '', ''))


def agreement(told: Sequence[str], seen: Sequence[str]) -> dict[str, bool]:
  """Returns whether each told attribute is seen."""
  return {
    name: a == b
    for name, a, b in zip(story_lib.ATTRIBUTES, told, seen, strict=True)
    if a
  }


def is_state(seen: tuple[int, int], told: tuple[int, int]) -> bool:
  """Returns whether a prop is in a told state, at both ends if it stays so."""
  return seen[1] == told[1] and (told[0] != told[1] or seen[0] == told[0])


def prop_states(told: script.Script) -> list[tuple[int, int]]:
  """Returns the told states of the prop at both ends of every segment."""
  changed: set[str] = set()
  states = []
  for segment in told.segments:
    begin = int(segment.place in changed)
    if any(act.action == 'change' for act in segment.acts):
      changed.add(segment.place)
    states.append((begin, int(segment.place in changed)))
  return states


def match(scores: np.ndarray) -> dict[int, int]:
  """Returns the assignment of rows to columns with the greatest sum.

  Args:
    scores: [rows, columns], few of both.
  """
  rows, columns = scores.shape
  best: tuple[float, dict[int, int]] = (-np.inf, {})
  count = min(rows, columns)
  for chosen in itertools.combinations(range(rows), count):
    for order in itertools.permutations(range(columns), count):
      total = sum(scores[i, j] for i, j in zip(chosen, order))
      if total > best[0]:
        best = total, dict(zip(chosen, order))
  return best[1]


def match_looks(
  looks: Sequence[Sequence[str]], shown: Sequence[Sequence[str]]
) -> dict[int, int]:
  """Returns which of the shown looks is the one of each expected one."""
  if not looks or not shown:
    return {}
  return match(
    np.array(
      [
        [sum(a == b for a, b in zip(look, each)) for each in shown]
        for look in looks
      ]
    )
  )


def events(
  told: script.Script, seen: Sequence[sight.SeenSegment]
) -> tuple[story_scores.Event, ...]:
  """Returns the memory events of a story, in their order."""
  found = [
    *_characters(told, seen),
    *_places(told, seen),
    *_props(told, seen),
  ]
  return tuple(sorted(found, key=lambda event: event.segment))


def _event(
  kind: str,
  subject: str,
  segment: int,
  earlier: Sequence[int],
  score: float,
  told: bool,
  attributes: Mapping[str, bool],
  margin: float,
) -> story_scores.Event:
  return story_scores.Event(
    kind=kind,
    subject=subject,
    segment=segment,
    since_first=_SECONDS * (segment - earlier[0]),
    since_last=_SECONDS * (segment - earlier[-1]),
    is_return=segment - earlier[-1] > 1,
    occurred=bool(attributes),
    right=bool(attributes) and all(attributes.values()),
    score=score,
    told=told,
    attributes=dict(attributes),
    margin=margin,
  )


def _characters(
  told: script.Script, seen: Sequence[sight.SeenSegment]
) -> list[story_scores.Event]:
  first: dict[str, identity.SeenCharacter] = {}
  earlier: dict[str, list[int]] = {}
  found = []
  for i, names in enumerate(names_of(told)):
    shown = seen[i].characters
    # By the first appearances; by the text before there is one.
    looks = [
      dataclasses.astuple(first[n].look)
      if n in first
      else told_look(told.looks.get(n))
      for n in names
    ]
    pairs = match_looks(looks, [dataclasses.astuple(c.look) for c in shown])
    for j, name in enumerate(names):
      there = shown[pairs[j]] if j in pairs else None
      before = earlier.setdefault(name, [])
      if before:
        attributes, score = _same_look(first.get(name), there)
        look = told_look(told.looks.get(name))
        is_told = there is not None and all(
          agreement(look, dataclasses.astuple(there.look)).values()
        )
        margin = min(there.margins.values()) if there else 0.0
        found.append(
          _event(
            'character', name, i, before, score, is_told, attributes, margin
          )
        )
      if there and name not in first:
        first[name] = there
      before.append(i)
  return found


def _places(
  told: script.Script, seen: Sequence[sight.SeenSegment]
) -> list[story_scores.Event]:
  first: dict[str, tuple[sight.SeenSegment, float]] = {}
  earlier: dict[str, list[int]] = {}
  found = []
  has_panned = False
  for i, segment in enumerate(told.segments):
    kind, shown = segment.place, seen[i]
    if not kind:
      continue
    before = earlier.setdefault(kind, [])
    # A scene begins in the middle, and stays there until the camera pans.
    if not before or before[-1] != i - 1:
      has_panned = False
    camera = float(shown.scene.cameras[0])
    if before:
      attributes, score = {}, 0.0
      if kind in first and shown.is_place:
        reference, at = first[kind]
        attributes, score = _same_place(
          reference, shown, None if has_panned else abs(camera - at)
        )
      place = told.places.get(kind)
      place_seen = shown.scene.place
      is_told = shown.is_place and place_seen.kind == kind
      if place:
        is_told = is_told and all(
          not a or a == b
          for a, b in (
            (place.colour, place_seen.colour),
            (place.side, place_seen.side),
          )
        )
      margins = [v for k, v in shown.margins.items() if k != 'prop']
      found.append(
        _event(
          'place', kind, i, before, score, is_told, attributes, min(margins)
        )
      )
    if shown.is_place and kind not in first:
      first[kind] = shown, camera
    has_panned = has_panned or bool(segment.pan)
    before.append(i)
  return found


def _props(
  told: script.Script, seen: Sequence[sight.SeenSegment]
) -> list[story_scores.Event]:
  first: dict[str, str] = {}
  changed: set[str] = set()
  states = prop_states(told)
  earlier: dict[str, list[int]] = {}
  found = []
  for i, segment in enumerate(told.segments):
    kind, shown = segment.place, seen[i]
    place = told.places.get(kind)
    if not place or not place.prop:
      continue
    before = earlier.setdefault(kind, [])
    is_change = any(a.action == 'change' for a in segment.acts)
    if before:
      attributes: dict[str, bool] = {}
      if shown.prop and kind in first:
        begin, end = shown.prop_states
        was = kind in changed
        attributes = dict(
          kind=shown.prop == first[kind],
          state=is_change or begin == end == was,
        )
      found.append(
        _event(
          'prop',
          f'{place.prop} ({kind})',
          i,
          before,
          sum(attributes.values()) / 2,
          shown.prop == place.prop and is_state(shown.prop_states, states[i]),
          attributes,
          shown.margins['prop'],
        )
      )
    if shown.prop:
      first.setdefault(kind, shown.prop)
      if shown.prop_states[1]:
        changed.add(kind)
    before.append(i)
  return found


def _same_look(
  first: identity.SeenCharacter | None, there: identity.SeenCharacter | None
) -> tuple[dict[str, bool], float]:
  """Compares a character with its first appearance."""
  if first is None or there is None:
    return {}, 0.0
  attributes, scores = {}, []
  distances = np.linalg.norm(first.colours - there.colours, axis=1)
  for name in story_lib.ATTRIBUTES:
    same = getattr(first.look, name) == getattr(there.look, name)
    score = float(same)
    if 'colour' in name:
      distance = float(distances[int(name != 'colour')])
      score = float(quality.grade(distance, _COLOUR))
      same = same or distance < _COLOUR[0]
    attributes[name] = same
    scores.append(score)
  return attributes, float(np.mean(scores))


def _same_place(
  first: sight.SeenSegment, there: sight.SeenSegment, moved: float | None
) -> tuple[dict[str, bool], float]:
  """Compares a place with its first appearance.

  Args:
    first: Segment of the first appearance.
    there: Another segment.
    moved: Distance of the cameras; None if they need not be the same.
  """
  a, b = first.scene, there.scene
  same_kind = a.place.kind == b.place.kind
  distance = float(np.linalg.norm(a.colour - b.colour))
  attributes = dict(
    kind=same_kind,
    colour=same_kind
    and (a.place.colour == b.place.colour or distance < _COLOUR[0]),
    side=same_kind and a.place.side == b.place.side,
  )
  scores = [
    float(same_kind),
    same_kind * float(quality.grade(distance, _COLOUR)),
    float(attributes['side']),
  ]
  score = float(np.mean(scores))
  if moved is not None and attributes['side']:
    attributes['position'] = moved < sum(_POSITION) / 2
    score *= float(quality.grade(moved, _POSITION))
  return attributes, score
