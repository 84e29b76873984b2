"""Files of votes and verdicts, and who is excluded."""

import json
import math

import pytest

from ttt_jax.evaluation import votes as votes_lib

STORIES = ('s', 't')


@pytest.fixture
def study(tmp_path):
  """Writes a key, and votes by (left, right, choice)."""
  clips = {
    f'{model}{i}': dict(model=model, story=story)
    for i, story in enumerate(STORIES)
    for model in ('x', 'y', 'x2')
  }
  clips['x20']['model'] = clips['x21']['model'] = 'x'
  key = tmp_path / 'study.key.json'
  key.write_text(
    json.dumps(
      dict(format=votes_lib.KEY_FORMAT, version=1, study='abc', clips=clips)
    )
  )
  folder = tmp_path / 'votes'
  folder.mkdir()

  def write(voter, *answers, study='abc', name=None, axis='text'):
    path = folder / f'{name or voter}.json'
    value = dict(
      format=votes_lib.VOTES_FORMAT,
      version=1,
      study=study,
      voter=voter,
      votes=[
        dict(axis=axis, left=a, right=b, choice=c, seconds=1.5)
        for a, b, c in answers
      ],
    )
    path.write_text(json.dumps(value))
    return path

  write.key, write.folder = key, folder
  return write


def test_sides_become_models(study):
  study('ann', ('x0', 'y0', 'left'), ('y1', 'x1', 'left'), ('x0', 'x20', 'tie'))
  study('bob', ('y0', 'x0', 'bad'), ('y1', 'x1', 'skip'))
  votes, voters = votes_lib.load(votes_lib.expand([study.folder]), study.key)
  assert votes == [
    votes_lib.Vote('text', 'x', 'y', 'a', 's', 'ann'),
    votes_lib.Vote('text', 'y', 'x', 'a', 't', 'ann'),
    votes_lib.Vote('text', 'y', 'x', 'bad', 's', 'bob'),
  ]
  assert voters == [
    votes_lib.Voter('ann', 2, 0, 1, 0),
    votes_lib.Voter('bob', 1, 1, 0, 0),
  ]


def test_who_fails_a_check_is_excluded(study):
  study('ann', ('x0', 'y0', 'left'))
  study('bot', ('x0', 'y0', 'right'), ('x0', 'x20', 'left'))
  votes, voters = votes_lib.load(votes_lib.expand([study.folder]), study.key)
  assert [v.voter for v in votes] == ['ann']
  assert [v.is_excluded for v in voters] == [False, True]
  assert not votes_lib.Voter('eve', 60, 0, 8, 1).is_excluded
  assert votes_lib.Voter('eve', 60, 0, 8, 2).is_excluded
  (study.folder / 'ann.json').unlink()
  with pytest.raises(ValueError, match='every voter failed the attention'):
    votes_lib.load([study.folder / 'bot.json'], study.key)


def test_two_exports_of_one_voter_are_joined(study):
  first = study('ann', ('x0', 'y0', 'left'), name='early')
  second = study('ann', ('x0', 'y0', 'left'), ('x1', 'y1', 'tie'), name='late')
  votes, voters = votes_lib.load([first, second], study.key)
  assert len(votes) == 2 and len(voters) == 1


def test_verdicts_of_a_judge(tmp_path):
  nan = math.nan
  scores = dict(
    x=dict(s=dict(text=0.9, motion=0.5), t=dict(text=nan)),
    y=dict(s=dict(text=0.8, motion=0.52), t=dict(text=0.1), u=dict(text=1)),
  )
  votes = votes_lib.verdicts_from_scores(scores, margin=0.05)
  found = [(v.axis, v.story, v.choice) for v in votes]
  assert found == [
    ('text', 's', 'a'),
    ('motion', 's', 'tie'),
    ('text', 't', 'b'),
  ]
  votes_lib.write_verdicts(votes, tmp_path / 'v.json', 'judge')
  assert votes_lib.load([tmp_path / 'v.json']) == (votes, [])


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(study='other'), "votes of the study 'other', but .*; name votes"),
    (dict(format='x'), 'has the format "x"; expected .ttt_jax votes'),
    (dict(votes=[]), 'no votes to rate: no question was answered'),
    (dict(version=2), '"version" of .* is 2; expected one of 1'),
    (dict(votes=[{}]), 'has no "axis"'),
  ],
)
def test_wrong_files(study, change, message):
  path = study('ann', ('x0', 'y0', 'left'))
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match=message) as e:
    votes_lib.load([path], study.key)
  assert '\n' not in str(e.value)


def test_wrong_arguments(study, tmp_path):
  path = study('ann', ('x0', 'nope', 'left'))
  with pytest.raises(ValueError, match="the clip 'nope', which .* lacks"):
    votes_lib.load([path], study.key)
  with pytest.raises(ValueError, match='give the key of the study'):
    votes_lib.load([path])
  with pytest.raises(ValueError, match="expected 'ttt_jax vote key'"):
    votes_lib.load([path], path)
  with pytest.raises(FileNotFoundError, match='missing does not exist'):
    votes_lib.expand([tmp_path / 'missing'])
  (tmp_path / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match='has no .json file'):
    votes_lib.expand([tmp_path / 'empty'])
