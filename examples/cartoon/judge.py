"""Judges a video by its story, from its frames alone.

    python -m examples.cartoon.judge sample.mp4 --truth=truth/test_000003.json
    python -m examples.cartoon.judge sample.mp4 --storyboard=my.json
    python -m examples.cartoon.judge samples/ --truth=data/truth --out=a.json
    python -m examples.cartoon.judge --compare a.json b.json --out=verdicts.json
    python -m examples.cartoon.judge --self_test

`sight` recognizes what every segment shows without the story; here it is
compared with what the story tells, and with what the video showed before. All
numbers are defined in docs/judge.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any

from absl import flags
import numpy as np

from examples.cartoon import acts
from examples.cartoon import dataset
from examples.cartoon import degrade
from examples.cartoon import quality
from examples.cartoon import returns
from examples.cartoon import script
from examples.cartoon import self_test
from examples.cartoon import sight
from examples.cartoon import verdict as verdict_lib
from examples.cartoon import words
from examples.cartoon import world
from examples.cartoon.verdict import print_scores
from examples.cartoon.verdict import print_verdict
from examples.cartoon.verdict import to_json
from examples.cartoon.verdict import Verdict
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.evaluation import story_scores
from ttt_jax.evaluation import votes
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import progress
from ttt_jax.runtime import schema
from ttt_jax.video import video_file

__all__ = (
  'Verdict',
  'judge',
  'judge_sight',
  'print_scores',
  'print_verdict',
  'read_frames',
  'to_json',
)
ATTRIBUTES = sight.ATTRIBUTES
_PAN = 0.02  # of the camera within a segment
_SHIFT = 0.12  # of the camera at a border that is a jump
_TARGET = 0.15  # from the end of an act to its target
_SPOTS = 3.5  # targets in a place, on average
_STEP = 0.15  # at a border between segments that is a jump
TIE = 0.005  # largest difference of an axis that is a tie
_ACTIVE = 0.8  # share of the steps that move in a video that moves enough


def judge(
  frames: np.ndarray,
  told: world.Story | script.Script,
  name: str | None = None,
) -> verdict_lib.Verdict:
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
) -> verdict_lib.Verdict:
  """Judges what was seen in a video; see `judge`."""
  acts_told: Sequence[Sequence[world.Act]]
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


def _mean(values: Sequence[float]) -> float | None:
  return float(np.mean(values)) if len(values) else None


def _times(parts: Mapping[str, float | None], name: str) -> float | None:
  """Returns the mean of the parts without one, times that one."""
  rest = _mean([v for k, v in parts.items() if v is not None and k != name])
  factor = parts.get(name)
  return rest if rest is None or factor is None else factor * rest


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
    self._names = returns.names_of(told)
    self._states = returns.prop_states(told)

  def verdict(self, name: str) -> verdict_lib.Verdict:
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
    characters = []
    for j, (name, look) in enumerate(zip(self._names[i], looks)):
      if j in pairs:
        character = seen.characters[pairs[j]]
        characters.append(
          verdict_lib.CharacterRow(
            name,
            look,
            shown[pairs[j]],
            returns.agreement(look, shown[pairs[j]]),
            min(character.margins.values()),
            **self._act_row(i, name, character),
          )
        )
      else:
        wrong = dict.fromkeys([a for a, v in zip(ATTRIBUTES, look) if v], False)
        characters.append(
          verdict_lib.CharacterRow(
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
      told_acts=tuple(
        verdict_lib.act_text(a.action, a.target, a.item) for a in told
      ),
      seen_act=verdict_lib.act_text(seen.act.action, '', seen.act.item)
      if seen
      else '',
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
    self, rows: Sequence[verdict_lib.SegmentRow]
  ) -> dict[str, story_scores.Count]:
    found: dict[str, list[bool]] = {}
    for row in rows:
      for character in row.characters:
        for key, value in character.right.items():
          found.setdefault(key, []).append(value)
        if len(character.right) == len(ATTRIBUTES):
          found.setdefault('look', []).append(character.is_right)
        other = self._is_member(character)
        if other is not None:
          found.setdefault('name', []).append(other)
        for key, value in character.act_right.items():
          found.setdefault(key, []).append(value)
      for key, value in row.place_right.items():
        found.setdefault(f'place {key}', []).append(value)
      for key, value in (row.prop_right or {}).items():
        found.setdefault(f'prop {key}', []).append(value)
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
    'File of a storyboard, whose text is read, or of several with the names of'
    ' the videos; FILE#NAME selects one.',
  )
  flags.DEFINE_string('out', None, 'JSON file of the verdicts.')
  flags.DEFINE_bool(
    'compare',
    False,
    'Whether to compare models: the arguments are files of --out, one per model'
    ' with its name, and --out receives pairwise verdicts for python -m'
    ' ttt_jax.evaluate --ratings.',
  )
  flags.DEFINE_bool(
    'self_test',
    False,
    'Whether to judge a true video, and videos degraded on purpose.',
  )
  cli.define('segments', 9, 'Segments of the self-test.', schema.PositiveInt)


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


def _told(
  paths: Sequence[pathlib.Path], truth: str | None, storyboard: str | None
) -> list[world.Story | script.Script]:
  """Returns what every video should show."""
  if (truth is None) == (storyboard is None):
    raise ValueError(
      'give one of --truth and --storyboard, for example --truth=data/truth'
    )
  if storyboard is not None:
    boards = storyboard_lib.select(storyboard, [str(p) for p in paths])
    return [
      script.story_from_text([s.text for s in boards[str(p)].segments])
      for p in paths
    ]
  where = pathlib.Path(truth or '')
  return [
    dataset.read_story(where / f'{p.stem}.json' if where.is_dir() else where)
    for p in paths
  ]


def read_frames(path: str | os.PathLike[str], segments: int) -> np.ndarray:
  """Reads a video of a story at 16 frames per second and 64 or 32 rows.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a video, or is too short.
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


def _self_test(segments: int) -> int:
  clip = degrade.Clip(degrade.story_of(segments))
  cache: dict = {}

  def axes_of(frames: np.ndarray) -> dict[str, float]:
    seen = sight.watch(frames, segments, cache)
    return judge_sight(seen, clip.story).axes

  result = self_test.run(clip, axes_of)
  self_test.print_result(result)
  return int(bool(result.problems))


def _compare(arguments: Sequence[str], out: str | None) -> None:
  """Writes pairwise verdicts on the stories that all models have."""
  if len(arguments) < 2 or not out:
    raise ValueError(
      '--compare takes the results of two or more models and --out, for example'
      ' --compare ttt_mlp.json mamba2.json --out=verdicts.json'
    )
  scores = {}
  for path in map(pathlib.Path, arguments):
    if path.stem in scores:
      raise ValueError(f'two files have the name {path.stem!r} of a model')
    scores[path.stem] = verdict_lib.read_axes(path)
  found = votes.verdicts_from_scores(scores, margin=TIE)
  if not found:
    raise ValueError('the models have no story in common')
  votes.write_verdicts(found, out, 'cartoon judge')
  print(f'wrote {out}: {len(found)} verdicts on pairs of videos')


def main(argv: Sequence[str]) -> int:
  """Judges the videos of the command line."""
  values = flags.FLAGS
  if values.self_test:
    return _self_test(values.segments)
  if values.out:
    files.check_writable(pathlib.Path(values.out))
  if values.compare:
    _compare(argv[1:], values.out)
    return 0
  videos = _videos(argv[1:])
  told = _told(videos, values.truth, values.storyboard)
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


if __name__ == '__main__':
  _define_flags()
  cli.run(main, arguments=True)
