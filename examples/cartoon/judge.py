"""Judges a video by its story, from its frames alone.

    python -m examples.cartoon.judge sample.mp4 --truth=truth/test_000003.json
    python -m examples.cartoon.judge sample.mp4 --storyboard=my.json
    python -m examples.cartoon.judge samples/ --truth=data/truth --out=a.json

`sight` recognizes what every segment shows without the story; here it is
compared with what the story tells, and with what the video showed before. All
numbers are defined in docs/judge.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import os
import pathlib
from typing import Any

from absl import flags
import numpy as np
from rich import console as rich_console
from rich import table as rich_table

from examples.cartoon import acts
from examples.cartoon import dataset
from examples.cartoon import quality
from examples.cartoon import script
from examples.cartoon import sight
from examples.cartoon import words
from examples.cartoon import world
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.evaluation import story_scores
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import progress
from ttt_jax.video import video_file

_SECONDS = world.SEGMENT_FRAMES / world.FPS
ATTRIBUTES = sight.ATTRIBUTES
# Distance of two measured colours that counts as the same, and as another.
# The nearest two colours of a character have the distance 0.42.
_SAME, _OTHER = 0.1, 0.35
# The same for the position of a place, in heights of the picture.
_STILL, _MOVED = 0.04, 0.25
_TARGET = 0.15  # from the end of an act to its target
_SPOTS = 3.5  # targets in a place, on average
_STEP = 0.15  # at a border between segments that is a jump
_ACTIVE = 0.8  # share of the steps that move in a video that moves enough


@dataclasses.dataclass(frozen=True)
class CharacterRow:
  """A character that a segment should show.

  Attributes:
    name: Name.
    told: Words of its look as the story tells it; '' for what it leaves open.
    seen: Words of the look that was recognized; empty if it was not found.
    right: Whether each told attribute is seen.
    margin: Confidence in the least certain attribute, 0 to 1.
    told_acts: What it should do, for example 'walk to the tree'.
    seen_act: What it does; '' if that was not recognized.
    act_right: Whether the 'action' and its 'target' are right, as far as they
      are told.
  """

  name: str
  told: tuple[str, ...]
  seen: tuple[str, ...]
  right: dict[str, bool]
  margin: float
  told_acts: tuple[str, ...] = ()
  seen_act: str = ''
  act_right: dict[str, bool] = dataclasses.field(default_factory=dict)

  @property
  def is_right(self) -> bool:
    return bool(self.seen) and all(self.right.values())


@dataclasses.dataclass(frozen=True)
class SegmentRow:
  """The verdict on one segment.

  Attributes:
    segment: Index.
    place: Kind, colour and side that are told; '' for what is left open.
    seen_place: What was recognized; empty if no place was.
    place_right: Whether each told one is seen.
    prop: Prop and its state at the end that are told, or None.
    seen_prop: What was recognized, or None.
    prop_right: Whether prop and state are right, or None if none is told.
    characters: One row per character that should be seen.
    others: Looks of further characters.
  """

  segment: int
  place: tuple[str, ...]
  seen_place: tuple[str, ...]
  place_right: dict[str, bool]
  prop: tuple[str, int] | None
  seen_prop: tuple[str, int] | None
  prop_right: dict[str, bool] | None
  characters: tuple[CharacterRow, ...]
  others: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The verdict on a video.

  Attributes:
    score: Axes, memory events, and counts of attributes with their chance.
    segments: One row per segment.
  """

  score: story_scores.StoryScore
  segments: tuple[SegmentRow, ...]

  @property
  def axes(self) -> dict[str, float]:
    return self.score.axes

  @property
  def events(self) -> tuple[story_scores.Event, ...]:
    return self.score.events


def judge(
  frames: np.ndarray,
  told: world.Story | script.Script,
  name: str | None = None,
) -> Verdict:
  """Judges a video.

  Args:
    frames: uint8 [n S + 1, H, W, 3] of S segments; n is 48 or a divisor of it,
      H is 32 or more and W is 1.5 H.
    told: Story or script of S segments. Where a script leaves something open,
      only its agreement with the first appearance is judged.
    name: Name of the story in the result; a drawn story has its own.

  Raises:
    ValueError: the frames do not fit the story.
  """
  seen = sight.watch(frames, len(told.segments))
  return judge_sight(seen, told, name)


def judge_sight(
  seen: sight.Sight,
  told: world.Story | script.Script,
  name: str | None = None,
) -> Verdict:
  """Judges what was seen in a video; see `judge`."""
  acts_told: Sequence[Sequence[world.Act]] | None = None
  if isinstance(told, world.Story):
    name = name or told.name
    acts_told = [segment.acts for segment in told.segments]
    told = script.of_story(told)
  else:
    acts_told = [
      [acts.told_act(a.action, a.target, a.item) for a in s.acts if a.action]
      for s in told.segments
    ]
  return _Judge(told, acts_told, seen).verdict(name or 'story')


def _told_look(look: world.Look | None) -> tuple[str, ...]:
  return dataclasses.astuple(look) if look else ('',) * len(ATTRIBUTES)


def _agreement(told: Sequence[str], seen: Sequence[str]) -> dict[str, bool]:
  """Returns whether each told attribute is seen."""
  return {
    name: a == b for name, a, b in zip(ATTRIBUTES, told, seen, strict=True) if a
  }


def _mean(values: Sequence[float]) -> float | None:
  return float(np.mean(values)) if len(values) else None


def _moving(parts: Mapping[str, float | None]) -> float | None:
  """Returns the axis 'motion': where nothing moves, it is 0."""
  rest = [v for k, v in parts.items() if v is not None and k != 'activity']
  activity = parts.get('activity')
  mean = _mean(rest)
  return mean if mean is None or activity is None else activity * mean


def grade(distance: float, same: float, other: float) -> float:
  """Returns 1 up to the distance `same`, 0 from `other` on."""
  return float(np.clip((other - distance) / (other - same), 0, 1))


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


class _Judge:
  """Compares what is seen with what is told."""

  def __init__(
    self,
    told: script.Script,
    acts_told: Sequence[Sequence[world.Act]],
    seen: sight.Sight,
  ):
    self._told = told
    self._acts = acts_told
    self._sight = seen
    self._seen = seen.segments
    self._names = [
      list(dict.fromkeys(act.name for act in s.acts)) for s in told.segments
    ]
    self._states = _prop_states(told)

  def verdict(self, name: str) -> Verdict:
    rows = tuple(self._row(i) for i in range(len(self._seen)))
    events = (
      *self._character_events(),
      *self._place_events(),
      *self._prop_events(),
    )
    groups = dict(
      text=self._text_parts(rows),
      motion=self._motion_parts(rows),
      aesthetics={
        key: _mean([s.nearness[key] for s in self._seen])
        for key in quality.PARTS
      },
      consistency={
        kind: _mean([e.score for e in events if e.kind == kind])
        for kind in ('character', 'place', 'prop')
      },
    )
    parts = {
      f'{axis}.{key}': value
      for axis, group in groups.items()
      for key, value in group.items()
      if value is not None
    }
    axes = {
      axis: _mean([v for v in group.values() if v is not None])
      for axis, group in groups.items()
    }
    axes['motion'] = _moving(groups['motion'])
    return Verdict(
      score=story_scores.StoryScore(
        story=name,
        axes=story_scores.with_mean(axes),
        parts=parts,
        events=tuple(sorted(events, key=lambda e: e.segment)),
        counts=self._counts(rows),
      ),
      segments=rows,
    )

  def _row(self, i: int) -> SegmentRow:
    told, seen = self._told.segments[i], self._seen[i]
    looks = [_told_look(self._told.looks.get(n)) for n in self._names[i]]
    shown = [dataclasses.astuple(c.look) for c in seen.characters]
    pairs = self._match(looks, shown)
    characters = []
    for j, (name, look) in enumerate(zip(self._names[i], looks)):
      if j in pairs:
        character = seen.characters[pairs[j]]
        characters.append(
          CharacterRow(
            name,
            look,
            shown[pairs[j]],
            _agreement(look, shown[pairs[j]]),
            min(character.margins.values()),
            **self._act_row(i, name, character),
          )
        )
      else:
        wrong = dict.fromkeys([a for a, v in zip(ATTRIBUTES, look) if v], False)
        characters.append(
          CharacterRow(
            name, look, (), wrong, 0.0, **self._act_row(i, name, None)
          )
        )
    place = self._told.places.get(told.place)
    expected = (
      told.place,
      place.colour if place else '',
      place.side if place else '',
    )
    found = seen.scene.place
    shown_place = (found.kind, found.colour, found.side)
    prop, prop_right = None, None
    if place and place.prop:
      states = self._states[i]
      prop = place.prop, states[1]
      is_same = seen.prop == place.prop
      prop_right = dict(
        kind=is_same, state=is_same and _is_state(seen.prop_states, states)
      )
    return SegmentRow(
      segment=i,
      place=expected,
      seen_place=shown_place if seen.is_place else (),
      place_right={
        key: seen.is_place and a == b and found.kind == told.place
        for key, a, b in zip(('kind', 'colour', 'side'), expected, shown_place)
        if a
      },
      prop=prop,
      seen_prop=(seen.prop, seen.prop_states[1]) if seen.prop else None,
      prop_right=prop_right,
      characters=tuple(characters),
      others=tuple(
        look for j, look in enumerate(shown) if j not in pairs.values()
      ),
    )

  def _act_row(
    self, i: int, name: str, character: sight.SeenCharacter | None
  ) -> dict[str, Any]:
    """Returns the fields of a row about what a character does."""
    told = [a for a in self._told.segments[i].acts if a.name == name]
    told = [a for a in told if a.action]
    seen = character.act if character else None
    can_tell = any(c.act for s in self._seen for c in s.characters)
    right: dict[str, bool] = {}
    if told and can_tell:
      same = [
        a
        for a in told
        if seen and (a.action, a.item) == (seen.act.action, seen.act.item)
      ]
      right['action'] = bool(same)
      target = (same or told)[0].target
      place = self._target_place(i)
      if told[0].action in ('walk', 'run', 'carry') and place:
        x = place.spots().get(target)
        if x is not None:
          right['target'] = bool(
            same and seen and abs(seen.act.end - x) < _TARGET
          )
    return dict(
      told_acts=tuple(_act_text(a.action, a.target, a.item) for a in told),
      seen_act=_act_text(seen.act.action, '', seen.act.item) if seen else '',
      act_right=right,
    )

  def _target_place(self, i: int) -> world.Place | None:
    """Returns the place in which targets of a segment are, as it is seen."""
    segment, seen = self._told.segments[i], self._seen[i]
    place = self._told.places.get(segment.place)
    found = seen.scene.place
    if segment.place != found.kind:
      return place if place and place.side else None
    prop = place.prop if place and place.prop else found.prop
    return dataclasses.replace(found, prop=prop)

  def _motion_parts(
    self, rows: Sequence[SegmentRow]
  ) -> dict[str, float | None]:
    followed = [
      c.act for s in self._seen for c in s.characters if c.act is not None
    ]
    times = np.array(sight.TRACKED)
    expected = sum(
      acts.expected_active(act, times) for told in self._acts for act in told
    )
    activity = None
    if expected:
      found = sum(act.active for act in followed)
      activity = min(1.0, found / (_ACTIVE * expected))
    if self._sight.length < len(sight.TRACKED) - 1:
      return {}
    flicker = []
    for i, segment in enumerate(self._seen):
      if np.ptp(segment.scene.cameras) < _STILL / 2:
        n = self._sight.length
        flicker.append(self._sight.flicker[n * i + 2 : n * (i + 1)])
    return dict(
      path=_mean([act.path for act in followed]) or 0.0,
      activity=activity,
      jumps=_mean([float(not self._jumps(i, rows)) for i in range(len(rows))]),
      flicker=quality.steadiness(np.concatenate(flicker)) if flicker else None,
    )

  def _jumps(self, i: int, rows: Sequence[SegmentRow]) -> bool:
    """Returns whether something jumps in a segment, or from the one before."""
    n, seen = self._sight.length, self._seen[i]
    if self._sight.cuts[n * i + 1 : n * (i + 1)].any():
      return True
    if any(c.act and c.act.teleports for c in seen.characters):
      return True
    if (
      not i or self._told.segments[i].place != self._told.segments[i - 1].place
    ):
      return False
    before = self._seen[i - 1]
    a, b = before.scene, seen.scene
    if dataclasses.replace(a.place, prop=b.place.prop) != b.place:
      return False
    if abs(a.cameras[-1] - b.cameras[0]) > _MOVED / 2:
      return True
    for last in before.characters:
      for first in seen.characters:
        if last.look == first.look and last.track and first.track:
          both = last.track.visible[-1] and first.track.visible[0]
          way = abs(last.track.x[-1] - first.track.x[0])
          if both and way > _STEP:
            return True
    return False

  def _match(
    self, looks: Sequence[Sequence[str]], shown: Sequence[Sequence[str]]
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

  def _text_parts(self, rows: Sequence[SegmentRow]) -> dict[str, float | None]:
    characters, places, props, actions = [], [], [], []
    for row in rows:
      if row.characters:
        found = [
          float(np.mean(list(c.right.values()) or [True])) if c.seen else 0.0
          for c in row.characters
        ]
        count = max(len(row.characters), len(found) + len(row.others))
        characters.append(sum(found) / count)
      actions += [
        float(np.mean(list(c.act_right.values())))
        for c in row.characters
        if c.act_right
      ]
      if row.place[0]:
        places.append(float(np.mean(list(row.place_right.values()))))
      if row.prop_right:
        props.append(float(np.mean(list(row.prop_right.values()))))
    return dict(
      character=_mean(characters),
      place=_mean(places),
      prop=_mean(props),
      action=_mean(actions),
    )

  def _counts(
    self, rows: Sequence[SegmentRow]
  ) -> dict[str, story_scores.Count]:
    found: dict[str, list[bool]] = {}
    for row in rows:
      for character in row.characters:
        for key, value in character.right.items():
          found.setdefault(key, []).append(value)
        if len(character.right) == len(ATTRIBUTES):
          found.setdefault('look', []).append(character.is_right)
        for key, value in character.act_right.items():
          found.setdefault(key, []).append(value)
      for key, value in row.place_right.items():
        found.setdefault(f'place {key}', []).append(value)
      for key, value in (row.prop_right or {}).items():
        found.setdefault(f'prop {key}', []).append(value)
    colours = len(words.COLOURS)
    shapes = len(words.SPECIES) * len(words.ACCESSORIES)
    chance = {
      'species': 1 / len(words.SPECIES),
      'colour': 1 / colours,
      'accessory': 1 / len(words.ACCESSORIES),
      'accessory_colour': 1 / colours,
      'look': 1 / (shapes * colours * (colours - 1)),
      'place kind': 1 / len(words.PLACES),
      'place colour': 1 / len(words.PLACES) / colours,
      'place side': 1 / len(words.PLACES) / len(world.SIDES),
      'prop kind': 1 / (1 + len(words.PROPS)),
      'prop state': 1 / (1 + len(words.PROPS)) / 2,
      'action': self._action_chance(),
      'target': self._action_chance() / _SPOTS,
    }
    return {
      key: story_scores.Count(sum(found[key]), len(found[key]), share)
      for key, share in chance.items()
      if key in found
    }

  def _action_chance(self) -> float:
    """Returns how often two acts of the story have the same action."""
    told = [
      (act.action, act.item)
      for segment in self._told.segments
      for act in segment.acts
      if act.action
    ]
    count = max(len(told), 1)
    return sum((told.count(t) / count) ** 2 for t in set(told))

  def _event(
    self,
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

  def _character_events(self) -> list[story_scores.Event]:
    first: dict[str, sight.SeenCharacter] = {}
    earlier: dict[str, list[int]] = {}
    events = []
    for i, names in enumerate(self._names):
      shown = self._seen[i].characters
      # By the first appearances; by the text before there is one.
      looks = [
        dataclasses.astuple(first[n].look)
        if n in first
        else _told_look(self._told.looks.get(n))
        for n in names
      ]
      pairs = self._match(looks, [dataclasses.astuple(c.look) for c in shown])
      for j, name in enumerate(names):
        there = shown[pairs[j]] if j in pairs else None
        before = earlier.setdefault(name, [])
        if before:
          attributes, score = _same_look(first.get(name), there)
          look = _told_look(self._told.looks.get(name))
          is_told = there is not None and all(
            _agreement(look, dataclasses.astuple(there.look)).values()
          )
          margin = min(there.margins.values()) if there else 0.0
          events.append(
            self._event(
              'character', name, i, before, score, is_told, attributes, margin
            )
          )
        if there and name not in first:
          first[name] = there
        before.append(i)
    return events

  def _place_events(self) -> list[story_scores.Event]:
    first: dict[str, tuple[sight.SeenSegment, float]] = {}
    earlier: dict[str, list[int]] = {}
    events = []
    has_panned = False
    for i, segment in enumerate(self._told.segments):
      kind, seen = segment.place, self._seen[i]
      if not kind:
        continue
      before = earlier.setdefault(kind, [])
      # A scene begins in the middle, and stays there until the camera pans.
      if not before or before[-1] != i - 1:
        has_panned = False
      camera = float(seen.scene.cameras[0])
      if before:
        attributes, score = {}, 0.0
        if kind in first and seen.is_place:
          reference, at = first[kind]
          attributes, score = _same_place(
            reference, seen, None if has_panned else abs(camera - at)
          )
        place = self._told.places.get(kind)
        found = seen.scene.place
        is_told = seen.is_place and found.kind == kind
        if place:
          is_told = is_told and all(
            not a or a == b
            for a, b in ((place.colour, found.colour), (place.side, found.side))
          )
        margins = [v for k, v in seen.margins.items() if k != 'prop']
        events.append(
          self._event(
            'place', kind, i, before, score, is_told, attributes, min(margins)
          )
        )
      if seen.is_place and kind not in first:
        first[kind] = seen, camera
      has_panned = has_panned or bool(segment.pan)
      before.append(i)
    return events

  def _prop_events(self) -> list[story_scores.Event]:
    first: dict[str, str] = {}
    changed: set[str] = set()
    earlier: dict[str, list[int]] = {}
    events = []
    for i, segment in enumerate(self._told.segments):
      kind, seen = segment.place, self._seen[i]
      place = self._told.places.get(kind)
      if not place or not place.prop:
        continue
      before = earlier.setdefault(kind, [])
      is_change = any(a.action == 'change' for a in segment.acts)
      if before:
        attributes: dict[str, bool] = {}
        if seen.prop and kind in first:
          begin, end = seen.prop_states
          was = kind in changed
          attributes = dict(
            kind=seen.prop == first[kind],
            state=is_change or begin == end == was,
          )
        events.append(
          self._event(
            'prop',
            f'{place.prop} ({kind})',
            i,
            before,
            sum(attributes.values()) / 2,
            seen.prop == place.prop
            and _is_state(seen.prop_states, self._states[i]),
            attributes,
            seen.margins['prop'],
          )
        )
      if seen.prop:
        first.setdefault(kind, seen.prop)
        if seen.prop_states[1]:
          changed.add(kind)
      before.append(i)
    return events


def _is_state(seen: tuple[int, int], told: tuple[int, int]) -> bool:
  """Returns whether a prop is in a told state, at both ends if it stays so."""
  return seen[1] == told[1] and (told[0] != told[1] or seen[0] == told[0])


def _prop_states(told: script.Script) -> list[tuple[int, int]]:
  """Returns the told states of the prop at both ends of every segment."""
  changed: set[str] = set()
  states = []
  for segment in told.segments:
    begin = int(segment.place in changed)
    if any(act.action == 'change' for act in segment.acts):
      changed.add(segment.place)
    states.append((begin, int(segment.place in changed)))
  return states


def _same_look(
  first: sight.SeenCharacter | None, there: sight.SeenCharacter | None
) -> tuple[dict[str, bool], float]:
  """Compares a character with its first appearance."""
  if first is None or there is None:
    return {}, 0.0
  attributes, scores = {}, []
  distances = np.linalg.norm(first.colours - there.colours, axis=1)
  for name in ATTRIBUTES:
    same = getattr(first.look, name) == getattr(there.look, name)
    score = float(same)
    if 'colour' in name:
      distance = float(distances[int(name != 'colour')])
      score = grade(distance, _SAME, _OTHER)
      same = same or distance < _SAME
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
    colour=same_kind and (a.place.colour == b.place.colour or distance < _SAME),
    side=same_kind and a.place.side == b.place.side,
  )
  scores = [
    float(same_kind),
    same_kind * grade(distance, _SAME, _OTHER),
    float(attributes['side']),
  ]
  score = float(np.mean(scores))
  if moved is not None and attributes['side']:
    attributes['position'] = moved < (_STILL + _MOVED) / 2
    score *= grade(moved, _STILL, _MOVED)
  return attributes, score


def _act_text(action: str, target: str, item: str) -> str:
  text = ' '.join(w for w in (action, item and f'a {item}') if w)
  if not target:
    return text
  where = {
    'enter': 'from the',
    'leave': 'to the',
    'hide': 'behind the',
    'wave': 'to',
    'change': 'the',
  }.get(action, 'to the')
  return f'{text} {where} {target}'


def _tick(right: bool | None) -> str:
  return '' if right is None else '[green]✓[/]' if right else '[red]✗[/]'


def _look_text(look: Sequence[str]) -> str:
  if not look:
    return 'nobody'
  species, colour, accessory, other = (w or '?' for w in look)
  return f'{colour} {species}, {other} {accessory}'


def _character_text(row: CharacterRow) -> str:
  text = f'{row.name.capitalize()}: {_look_text(row.seen)}'
  if row.is_right:
    return f'{text} {_tick(True)}'
  told = f' (told: {_look_text(row.told)})' if any(row.told) else ''
  return f'{text} {_tick(False)}{told}'


def _action_text(row: CharacterRow) -> str:
  seen = row.seen_act or 'nothing'
  if not row.act_right:
    return row.seen_act
  if all(row.act_right.values()):
    return f'{row.told_acts[0]} {_tick(True)}'
  return f'{seen} {_tick(False)} (told: {", ".join(row.told_acts)})'


def print_verdict(
  verdict: Verdict, console: rich_console.Console | None = None
) -> None:
  """Prints the verdict on a video as a table."""
  console = console or rich_console.Console()
  table = rich_table.Table(title=f'what {verdict.score.story} shows')
  for column in ('seconds', 'characters', 'actions', 'place', 'prop'):
    table.add_column(column)
  for row in verdict.segments:
    lines = [_character_text(c) for c in row.characters]
    lines += [f'and {_look_text(look)} [red]✗[/]' for look in row.others]
    place = ' '.join(
      [row.seen_place[1], row.seen_place[0]] if row.seen_place else ['none']
    )
    if row.seen_place:
      place += f', {row.seen_place[2]}'
    prop = ''
    if row.seen_prop or row.prop:
      kind, state = row.seen_prop or ('none', 0)
      prop = f'{kind}, changed' if state else kind
      if row.prop_right:
        prop += f' {_tick(all(row.prop_right.values()))}'
    table.add_row(
      f'{_SECONDS * row.segment:g}',
      '\n'.join(lines),
      '\n'.join(_action_text(c) for c in row.characters),
      f'{place} {_tick(all(row.place_right.values()))}',
      prop,
    )
  console.print(table)
  print_scores([verdict.score], console)


def print_scores(
  scores: Sequence[story_scores.StoryScore],
  console: rich_console.Console | None = None,
) -> None:
  """Prints axes, attributes with their chance, and memory events."""
  console = console or rich_console.Console()
  total = story_scores.summary(scores)
  table = rich_table.Table('axis', 'score')
  for name, value in total['axes'].items():
    table.add_row(name, _with_interval(value['mean'], value))
  console.print(table)
  table = rich_table.Table('attribute', 'right', 'chance', 'judged')
  for name, value in total['counts'].items():
    table.add_row(
      name.replace('_', ' '),
      _with_interval(value['right'], value),
      f'{value["chance"]:.1%}',
      f'{value["total"]}',
    )
  console.print(table)
  table = rich_table.Table(
    'memory: seconds since last seen', 'events', 'occurred', 'right'
  )
  for row in total['curves'].get('all', {}).get('since_last', ()):
    end = f'to {row["to"]:.0f}' if row['to'] else 'and more'
    table.add_row(
      f'{row["from"]:.0f} {end}',
      f'{row["events"]}',
      f'{row["occurred"]:.0%}',
      _with_interval(row['right'], row),
    )
  console.print(table)


def _with_interval(value: float, row: Mapping[str, Any]) -> str:
  text = f'{value:.3f}'
  if row['low'] is not None:
    text += f' ({row["low"]:.3f} to {row["high"]:.3f})'
  return text


def _define_flags() -> None:
  flags.DEFINE_string(
    'truth',
    None,
    'File of a story that examples.cartoon.dataset wrote, or the folder of the'
    ' stories of several videos with the same names.',
  )
  flags.DEFINE_string(
    'storyboard',
    None,
    'File of a storyboard, whose text is read; FILE#NAME selects one.',
  )
  flags.DEFINE_string('out', None, 'JSON file of the verdicts.')


def _videos(arguments: Sequence[str]) -> list[pathlib.Path]:
  found: list[pathlib.Path] = []
  for argument in arguments:
    path = pathlib.Path(argument)
    if path.is_dir():
      inside = sorted(path.glob('*.mp4'))
      if not inside:
        raise FileNotFoundError(f'{path} has no .mp4 file')
      found += inside
    elif path.exists():
      found.append(path)
    else:
      raise FileNotFoundError(f'{path} does not exist; name a video')
  if not found:
    raise ValueError('no video is named; give one, for example sample.mp4')
  return list(dict.fromkeys(found))


def _told(path: pathlib.Path, values: Any) -> world.Story | script.Script:
  """Returns what a video should show."""
  if (values.truth is None) == (values.storyboard is None):
    raise ValueError('give one of --truth and --storyboard')
  if values.truth is not None:
    truth = pathlib.Path(values.truth)
    if truth.is_dir():
      truth /= f'{path.stem}.json'
    return dataset.read_story(truth)
  board = storyboard_lib.Storyboard.load(values.storyboard)
  return script.story_from_text([s.text for s in board.segments])


def read_frames(path: str | os.PathLike[str], segments: int) -> np.ndarray:
  """Reads a video of a story at 16 frames per second.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a video, or has another length.
  """
  info = video_file.probe(path)
  height = 64 if info.height >= 64 else 32
  return video_file.read_video(
    path,
    fps=world.FPS,
    height=height,
    width=round(height * world.ASPECT),
    frames=world.SEGMENT_FRAMES * segments + 1,
    soften=False,
  )


def main(argv: Sequence[str]) -> int:
  """Judges the videos of the command line."""
  values = flags.FLAGS
  videos = _videos(argv[1:])
  told = [_told(path, values) for path in videos]
  if values.out:
    files.check_writable(pathlib.Path(values.out))
  verdicts = []
  for path, each in progress.track(list(zip(videos, told)), 'judge'):
    frames = read_frames(path, len(each.segments))
    verdicts.append(judge(frames, each, path.stem))
  if len(verdicts) == 1:
    print_verdict(verdicts[0])
  else:
    print_scores([verdict.score for verdict in verdicts])
  if values.out:
    files.write_json(to_json(verdicts), values.out)
    print(f'wrote {values.out}')
  return 0


def to_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
  """Returns the JSON value of verdicts, with their summary."""
  return files.to_json_types(
    dict(
      format='ttt_jax story scores',
      version=1,
      summary=story_scores.summary([v.score for v in verdicts]),
      verdicts=[dataclasses.asdict(v) for v in verdicts],
    )
  )


if __name__ == '__main__':
  _define_flags()
  cli.run(main, arguments=True)
