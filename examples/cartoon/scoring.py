"""Scores a video: its recognized contents, compared with those of its story.

A row per segment has the contents of the story and the recognized ones; the
axes are means over the rows, over the tracks of characters, and over memory
events.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from examples.cartoon import acts
from examples.cartoon import identity
from examples.cartoon import quality
from examples.cartoon import returns
from examples.cartoon import script
from examples.cartoon import sight
from examples.cartoon import story as story_lib
from examples.cartoon import verdict as verdict_lib
from examples.cartoon import words
from ttt_jax.evaluation import story_scores

_PAN = 0.02  # of the camera within a segment
_SHIFT = 0.12  # of the camera at a border that is a jump
_TARGET = 0.15  # from the end of an act to its target
_SPOTS = 3.5  # targets in a place, on average
_STEP = 0.15  # at a border between segments that is a jump
_ACTIVE = 0.8  # share of the steps that move in a video that moves enough


def verdict(
  seen: sight.Sight,
  told: story_lib.Story | script.Script,
  name: str | None = None,
) -> verdict_lib.Verdict:
  """Returns the verdict on the recognized contents; see `judge.judge`."""
  acts_told: Sequence[Sequence[story_lib.Act]]
  if isinstance(told, story_lib.Story):
    name = name or told.name
    acts_told = [segment.acts for segment in told.segments]
    told = script.of_story(told)
  else:
    acts_told = [
      [acts.told_act(a.action, a.target, a.item) for a in s.acts if a.action]
      for s in told.segments
    ]
  return _Judge(told, acts_told, seen).verdict(name or 'story')


def _mean(values: Sequence[float]) -> float | None:
  return float(np.mean(values)) if len(values) else None


def _share(right: Mapping[str, bool]) -> float:
  """Returns the share of right attributes; 1 if there are none."""
  return float(np.mean(list(right.values()) or [True]))


def _times(parts: Mapping[str, float | None], name: str) -> float | None:
  """Returns the mean of the parts without one, times that one."""
  rest = _mean([v for k, v in parts.items() if v is not None and k != name])
  factor = parts.get(name)
  return rest if rest is None or factor is None else factor * rest


class _Judge:
  """Compares the recognized contents with those of the story."""

  def __init__(
    self,
    told: script.Script,
    acts_told: Sequence[Sequence[story_lib.Act]],
    seen: sight.Sight,
  ):
    self._told = told
    self._acts = acts_told
    self._sight = seen
    self._seen = seen.segments
    self._names = returns.names_of(told)
    self._states = returns.prop_states(told)

  def verdict(self, name: str) -> verdict_lib.Verdict:
    """Returns the verdict on the story of a name."""
    rows = tuple(self._row(i) for i in range(len(self._seen)))
    events = returns.events(self._told, self._seen)
    groups = dict(
      text=self._text_parts(rows),
      motion=self._motion_parts(),
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
    axes['motion'] = _times(groups['motion'], 'activity')
    axes['aesthetics'] = _times(groups['aesthetics'], 'colours')
    return verdict_lib.Verdict(
      score=story_scores.StoryScore(
        story=name,
        axes=story_scores.with_mean(axes),
        parts=parts,
        events=events,
        counts=self._counts(rows),
      ),
      segments=rows,
    )

  def _row(self, i: int) -> verdict_lib.SegmentRow:
    told, seen = self._told.segments[i], self._seen[i]
    looks = [returns.told_look(self._told.looks.get(n)) for n in self._names[i]]
    shown = [dataclasses.astuple(c.look) for c in seen.characters]
    pairs = returns.match_looks(looks, shown)
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
        kind=is_same,
        state=is_same and returns.is_state(seen.prop_states, states),
      )
    return verdict_lib.SegmentRow(
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
      characters=tuple(
        self._character_row(
          i, name, look, seen.characters[pairs[j]] if j in pairs else None
        )
        for j, (name, look) in enumerate(zip(self._names[i], looks))
      ),
      others=tuple(
        look for j, look in enumerate(shown) if j not in pairs.values()
      ),
    )

  def _character_row(
    self,
    i: int,
    name: str,
    look: tuple[str, ...],
    character: identity.SeenCharacter | None,
  ) -> verdict_lib.CharacterRow:
    """Returns a character's row: its recognized look and that of the story."""
    found = dataclasses.astuple(character.look) if character else ()
    seen = character.act if character else None
    told = [
      act
      for act in self._told.segments[i].acts
      if act.name == name and act.action
    ]
    return verdict_lib.CharacterRow(
      name=name,
      told=look,
      seen=found,
      right=returns.agreement(look, found or returns.told_look(None)),
      margin=min(character.margins.values()) if character else 0.0,
      told_acts=tuple(
        verdict_lib.act_text(a.action, a.target, a.item) for a in told
      ),
      seen_act=verdict_lib.act_text(seen.act.action, '', seen.act.item)
      if seen
      else '',
      act_right=self._act_right(i, told, seen),
    )

  def _act_right(
    self,
    i: int,
    told: Sequence[script.ScriptAct],
    seen: acts.SeenAct | None,
  ) -> dict[str, bool]:
    """Returns whether the action and its target are right, if they are told."""
    can_tell = any(c.act for s in self._seen for c in s.characters)
    if not told or not can_tell:
      return {}
    same = [
      act
      for act in told
      if seen and (act.action, act.item) == (seen.act.action, seen.act.item)
    ]
    right = dict(action=bool(same))
    place = self._target_place(i)
    if told[0].action in ('walk', 'run', 'carry') and place:
      x = place.spots().get((same or told)[0].target)
      if x is not None:
        right['target'] = bool(
          same and seen and abs(seen.act.end - x) < _TARGET
        )
    return right

  def _target_place(self, i: int) -> story_lib.Place | None:
    """Returns the place in which targets of a segment are, as it is seen."""
    segment, seen = self._told.segments[i], self._seen[i]
    place = self._told.places.get(segment.place)
    found = seen.scene.place
    if segment.place != found.kind:
      return place if place and place.side else None
    prop = place.prop if place and place.prop else found.prop
    return dataclasses.replace(found, prop=prop)

  def _motion_parts(self) -> dict[str, float | None]:
    followed = [
      c.act for s in self._seen for c in s.characters if c.act is not None
    ]
    times = self._sight.times
    expected = sum(
      acts.expected_active(act, times) for told in self._acts for act in told
    )
    activity = None
    if expected:
      found = sum(act.active for act in followed)
      activity = min(1.0, found / (_ACTIVE * expected))
    if len(times) < sight.FEWEST:
      return {}
    flicker = []
    for i, segment in enumerate(self._seen):
      if np.ptp(segment.scene.cameras) < _PAN:
        n = self._sight.length
        flicker.append(self._sight.flicker[n * i + 2 : n * (i + 1)])
    return dict(
      path=_mean([act.path for act in followed]) or 0.0,
      activity=activity,
      jumps=_mean([float(not self._jumps(i)) for i in range(len(self._seen))]),
      flicker=quality.steadiness(np.concatenate(flicker)) if flicker else None,
    )

  def _jumps(self, i: int) -> bool:
    """Returns whether something jumps in a segment or from the previous one."""
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
    if abs(a.cameras[-1] - b.cameras[0]) > _SHIFT:
      return True
    for last in before.characters:
      for first in seen.characters:
        if last.look == first.look and last.track and first.track:
          both = last.track.visible[-1] and first.track.visible[0]
          way = abs(last.track.x[-1] - first.track.x[0])
          if both and way > _STEP:
            return True
    return False

  def _text_parts(
    self, rows: Sequence[verdict_lib.SegmentRow]
  ) -> dict[str, float | None]:
    characters, places, props, actions = [], [], [], []
    for row in rows:
      if row.characters:
        found = [_share(c.right) if c.seen else 0.0 for c in row.characters]
        count = max(len(row.characters), len(found) + len(row.others))
        characters.append(sum(found) / count)
      actions += [_share(c.act_right) for c in row.characters if c.act_right]
      if row.place[0]:
        places.append(_share(row.place_right))
      if row.prop_right:
        props.append(_share(row.prop_right))
    return dict(
      character=_mean(characters),
      place=_mean(places),
      prop=_mean(props),
      action=_mean(actions),
    )

  def _counts(
    self, rows: Sequence[verdict_lib.SegmentRow]
  ) -> dict[str, story_scores.Count]:
    found: dict[str, list[bool]] = collections.defaultdict(list)
    for row in rows:
      for character in row.characters:
        for key, value in (character.right | character.act_right).items():
          found[key].append(value)
        if len(character.right) == len(story_lib.ATTRIBUTES):
          found['look'].append(character.is_right)
        is_member = self._is_member(character)
        if is_member is not None:
          found['name'].append(is_member)
      for key, value in row.place_right.items():
        found[f'place {key}'].append(value)
      for key, value in (row.prop_right or {}).items():
        found[f'prop {key}'].append(value)
    colours = len(words.COLOURS)
    shapes = len(words.SPECIES) * len(words.ACCESSORIES)
    chance = {
      'name': 1 / max(len(self._told.looks), 1),
      'species': 1 / len(words.SPECIES),
      'colour': 1 / colours,
      'accessory': 1 / len(words.ACCESSORIES),
      'accessory_colour': 1 / colours,
      'look': 1 / (shapes * colours * (colours - 1)),
      'place kind': 1 / len(words.PLACES),
      'place colour': 1 / len(words.PLACES) / colours,
      'place side': 1 / len(words.PLACES) / len(story_lib.SIDES),
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

  def _is_member(self, row: verdict_lib.CharacterRow) -> bool | None:
    """Returns whether a character is more like its own look than like others'.

    None if the looks of fewer than two characters are told.
    """
    looks = {n: dataclasses.astuple(x) for n, x in self._told.looks.items()}
    if len(looks) < 2 or row.name not in looks:
      return None
    if not row.seen:
      return False
    likeness = {
      name: sum(a == b for a, b in zip(look, row.seen))
      for name, look in looks.items()
    }
    own = likeness.pop(row.name)
    return own > max(likeness.values())

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
