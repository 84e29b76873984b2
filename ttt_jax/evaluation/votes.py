"""Votes of people on pairs of videos, and verdicts of automatic judges.

The page of `vote_page` exports a file of votes per voter: which of two clips,
known by an id, is better on one axis. The key of the study, a separate file,
has the model and the story of every clip. An automatic judge writes a file of
verdicts, which name the models themselves:

    {"format": "ttt_jax verdicts", "version": 1, "judge": "nearest shot",
     "verdicts": [{"axis": "text", "story": "s01", "a": "ttt_mlp",
                   "b": "mamba2", "choice": "a"}]}

A choice is "a", "b", "tie" or "bad" (both are bad).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import math
import os
import pathlib
from typing import Any, Literal

import msgspec

from ttt_jax.runtime import files
from ttt_jax.runtime import schema

VERSION = 1
KEY_FORMAT = 'ttt_jax vote key'
VOTES_FORMAT = 'ttt_jax votes'
VERDICTS_FORMAT = 'ttt_jax verdicts'

# The four axes on which the paper compares videos, with the page's questions.
AXES = {
  'text': (
    'Which video follows the text better?',
    'The right characters, actions, objects and places, in the right order.',
  ),
  'motion': (
    'In which video is the motion more natural?',
    'Bodies and things move as they should, without jumps and flicker.',
  ),
  'aesthetics': (
    'Which video looks better?',
    'Sharpness, colours, light and composition, as in a finished film.',
  ),
  'consistency': (
    'Which video is more consistent over time?',
    'Characters, places and objects keep their look, also when they return'
    ' after other scenes.',
  ),
}

QUESTIONS = 40  # Of a voter, without attention checks.
# Of the checks that a voter answered, this share may be wrong.
ALLOWED_FAILURES = 1 / 8


@dataclasses.dataclass(frozen=True)
class Vote:
  """The answer of one voter to one question.

  Attributes:
    axis: Name of the axis, for example 'text'.
    a: Name of a model.
    b: Name of another model.
    choice: 'a', 'b', 'tie' or 'bad', which means that both are bad.
    story: Name of the story that both videos show; '' if there is none.
    voter: Name of the voter or of the judge.
  """

  axis: str
  a: str
  b: str
  choice: str
  story: str = ''
  voter: str = ''

  @property
  def score(self) -> float:
    """Returns the part of a win that `a` receives: 1, 1/2 or 0."""
    return {'a': 1.0, 'b': 0.0}.get(self.choice, 0.5)


@dataclasses.dataclass(frozen=True)
class Voter:
  """One voter's part in a study.

  Attributes:
    name: Name of the voter.
    votes: Number of votes, without attention checks.
    skipped: Number of questions whose videos could not be played.
    checks: Number of attention checks that were answered.
    failed: Number of them in which one of two equal videos was preferred.
  """

  name: str
  votes: int
  skipped: int
  checks: int
  failed: int

  @property
  def is_excluded(self) -> bool:
    """Returns whether more than one in eight checks failed."""
    return self.failed > ALLOWED_FAILURES * self.checks


class _Clip(msgspec.Struct):
  model: schema.Text
  story: schema.Text


class _Key(msgspec.Struct):
  format: Literal['ttt_jax vote key']
  version: Literal[1]
  study: schema.Text
  clips: dict[str, _Clip]


class _Answer(msgspec.Struct):
  axis: schema.Text
  left: str
  right: str
  choice: Literal['left', 'right', 'tie', 'bad', 'skip']


class _Votes(msgspec.Struct):
  format: Literal['ttt_jax votes']
  version: Literal[1]
  study: str
  voter: schema.Text
  votes: list[_Answer]


class _Verdict(msgspec.Struct, forbid_unknown_fields=True):
  axis: schema.Text
  a: schema.Text
  b: schema.Text
  choice: Literal['a', 'b', 'tie', 'bad']
  story: schema.Prose = ''


class _Verdicts(msgspec.Struct):
  format: Literal['ttt_jax verdicts']
  version: Literal[1]
  verdicts: list[_Verdict]
  judge: schema.Text = 'judge'


def expand(arguments: Sequence[str]) -> list[pathlib.Path]:
  """Returns files, and in the place of a folder its JSON files.

  Raises:
    FileNotFoundError: a path does not exist, or a folder has no JSON file.
  """
  found: list[pathlib.Path] = []
  for argument in arguments:
    path = pathlib.Path(argument)
    if not path.exists():
      raise FileNotFoundError(f'{path} does not exist; name a file of votes')
    if path.is_dir():
      inside = sorted(path.glob('*.json'))
      if not inside:
        raise FileNotFoundError(f'{path} has no .json file of votes')
      found += inside
    else:
      found.append(path)
  return list(dict.fromkeys(found))


def load(
  paths: Sequence[str | os.PathLike[str]],
  key: str | os.PathLike[str] | None = None,
) -> tuple[list[Vote], list[Voter]]:
  """Reads files of votes and of verdicts.

  Args:
    paths: Files; several of one voter are joined.
    key: Key of the study; only verdicts can be read without one.

  Returns:
    The votes of those who passed the attention checks, and all voters.

  Raises:
    FileNotFoundError: a file does not exist.
    ValueError: a file has another format, or votes belong to another study.
  """
  clips: dict[str, _Clip] = {}
  study = None
  if key is not None:
    found = _convert(files.read_json(key), _Key, KEY_FORMAT, key)
    clips, study = found.clips, found.study
  votes: list[Vote] = []
  people: dict[str, dict[tuple[str, ...], _Answer]] = {}
  for path in paths:
    value = files.read_json(path)
    if isinstance(value, Mapping) and value.get('format') == VERDICTS_FORMAT:
      votes += _verdicts(value, path)
      continue
    answers = _convert(value, _Votes, VOTES_FORMAT, path)
    if key is None:
      raise ValueError(
        f'{path} has votes on clips without names; give the key of the study,'
        ' for example --key=study.key.json'
      )
    if answers.study != study:
      raise ValueError(
        f'{path} has votes of the study {answers.study!r}, but {key} is the key'
        f' of the study {study!r}; name votes and key of one study'
      )
    mine = people.setdefault(answers.voter, {})
    for answer in answers.votes:
      for clip in (answer.left, answer.right):
        if clip not in clips:
          raise ValueError(f'{path} has the clip {clip!r}, which {key} lacks')
      # An export in the middle and one at the end contain the same answers.
      sides = sorted((answer.left, answer.right))
      mine[answer.axis, *sides] = answer
  voters = []
  for name, answers in people.items():
    voter, cast = _count(name, list(answers.values()), clips)
    voters.append(voter)
    votes += [] if voter.is_excluded else cast
  if not votes:
    reason = 'every voter failed the attention checks' if voters else ''
    if voters and not any(v.is_excluded for v in voters):
      reason = 'no question was answered'
    raise ValueError(f'there are no votes to rate: {reason or "no verdict"}')
  return votes, voters


def verdicts_from_scores(
  scores: Mapping[str, Mapping[str, Mapping[str, float]]], margin: float = 0.0
) -> list[Vote]:
  """Returns pairwise verdicts of a judge that gives a number to each video.

  Args:
    scores: Model -> story -> axis -> score, larger is better. Models are
      compared on the stories and axes that both have.
    margin: Largest difference of two scores that is a tie.

  Returns:
    A vote per pair of models, story and axis. A score that is not a number is
    worse than every number.
  """
  votes = []
  for a, b in itertools.combinations(scores, 2):
    for story in scores[a]:
      theirs = scores[b].get(story, {})
      for axis, value in scores[a][story].items():
        if axis not in theirs:
          continue
        first, second = (
          -math.inf if math.isnan(x) else x for x in (value, theirs[axis])
        )
        is_tie = first == second or abs(first - second) <= margin
        choice = 'tie' if is_tie else 'a' if first > second else 'b'
        votes.append(Vote(axis, a, b, choice, story, 'judge'))
  return votes


def write_verdicts(
  votes: Sequence[Vote], path: str | os.PathLike[str], judge: str
) -> None:
  """Writes a file of verdicts, completely or not at all."""
  rows = [dataclasses.asdict(vote) for vote in votes]
  for row in rows:
    del row['voter']
  files.write_json(
    dict(format=VERDICTS_FORMAT, version=VERSION, judge=judge, verdicts=rows),
    path,
  )


def _convert(value: Any, kind: Any, name: str, path: Any) -> Any:
  """Returns the contents of a file that must have a format."""
  found = value.get('format') if isinstance(value, Mapping) else None
  if found != name:
    raise ValueError(
      f'{path} has the format {schema.show(found)}; expected {name!r}'
    )
  return schema.convert(value, kind, str(path))


def _verdicts(value: Any, path: Any) -> list[Vote]:
  found = _convert(value, _Verdicts, VERDICTS_FORMAT, path)
  votes = []
  for i, v in enumerate(found.verdicts, 1):
    if v.a == v.b:
      raise ValueError(
        f'{path}: verdict {i} compares {v.a!r} with itself; name two models'
      )
    votes.append(Vote(v.axis, v.a, v.b, v.choice, v.story, found.judge))
  return votes


def _count(
  name: str, answers: Sequence[_Answer], clips: Mapping[str, _Clip]
) -> tuple[Voter, list[Vote]]:
  """Returns a voter, and the votes without attention checks."""
  skipped = checks = failed = 0
  votes = []
  for answer in answers:
    left, right = clips[answer.left], clips[answer.right]
    if answer.choice == 'skip':
      skipped += 1
    elif left.model == right.model:
      checks += 1
      failed += answer.choice in ('left', 'right')
    else:
      choice = {'left': 'a', 'right': 'b'}.get(answer.choice, answer.choice)
      votes.append(
        Vote(answer.axis, left.model, right.model, choice, left.story, name)
      )
  return Voter(name, len(votes), skipped, checks, failed), votes
