"""Bradley-Terry against closed forms, intervals, agreement, degenerate data."""

import json

import numpy as np
import pytest

from ttt_jax.evaluation import ratings
from ttt_jax.evaluation import votes as votes_lib


def votes_of(counts, axis='text', a='x', b='y'):
  """Votes with {choice: number}, each on a story of its own."""
  choices = [c for c, n in counts.items() for _ in range(n)]
  return [
    votes_lib.Vote(axis, a, b, c, f's{i}', 'v') for i, c in enumerate(choices)
  ]


def test_two_models_have_a_closed_form():
  """The odds are those of the wins; ties and 'both are bad' are half a win."""
  found = ratings.rate(votes_of(dict(a=50, b=20, tie=20, bad=10)), 10)
  table = found['axes']['text']
  difference = 400 * np.log10(65 / 35)
  np.testing.assert_allclose(
    table['ratings']['x']['rating'], 1000 + difference / 2
  )
  np.testing.assert_allclose(
    table['ratings']['y']['rating'], 1000 - difference / 2
  )
  np.testing.assert_allclose(table['pairs'][0]['probability'], 0.65)
  assert found['models'] == ['x', 'y']
  counts = {
    k: table['ratings']['y'][k] for k in ('wins', 'losses', 'ties', 'bad')
  }
  assert counts == dict(wins=20, losses=50, ties=20, bad=10)


def test_a_tournament_with_a_known_maximum():
  """Strengths 4 : 2 : 1, and every pair won in exactly that proportion."""
  wins = np.array([[0, 4, 4], [2, 0, 2], [1, 1, 0.0]])
  found, is_finite = ratings.fit(wins)
  want = 400 * np.log10([4, 2, 1])
  np.testing.assert_allclose(found, want - want.mean() + 1000)
  assert is_finite
  # Elsewhere, expected wins equal the wins; many tournaments at once.
  wins = np.random.default_rng(0).integers(1, 30, (5, 6, 6)) * (1 - np.eye(6))
  found, is_finite = ratings.fit(wins)
  p = 1 / (1 + 10 ** ((found[:, None, :] - found[:, :, None]) / 400))
  games = wins + wins.swapaxes(1, 2)
  np.testing.assert_allclose((games * p).sum(2), wins.sum(2), rtol=1e-9)
  assert is_finite.all()


def test_the_order_of_the_models_of_a_vote_does_not_matter():
  votes = votes_of(dict(a=7, b=3))
  turned = [
    votes_lib.Vote(v.axis, v.b, v.a, 'b' if v.choice == 'a' else 'a', v.story)
    for v in votes
  ]
  for x, y in zip(
    *(ratings.rate(v, 50)['axes']['text']['pairs'] for v in (votes, turned))
  ):
    assert x == y


def test_a_model_that_always_wins_stays_finite():
  votes = votes_of(dict(a=30)) + votes_of(dict(a=4, b=5), a='y', b='z')
  table = ratings.rate(votes, 100)['axes']['text']
  x = table['ratings']['x']
  assert 1000 < x['low'] <= x['rating'] <= x['high'] < 3000
  assert table['notes'][0] == 'x won every vote against the others'
  assert 'lower bounds' in table['notes'][-1]
  json.dumps(table, allow_nan=False)
  # Models that nobody compared.
  apart = votes_of(dict(a=2, b=2)) + votes_of(dict(a=2, b=2), a='p', b='q')
  notes = ratings.rate(apart, 10)['axes']['text']['notes']
  assert notes[0] == 'p, q was never compared with the others'


@pytest.mark.parametrize('stories', [30, 3])
def test_intervals_cover(stories):
  """The true difference is inside of about 95 % of the intervals."""
  rng = np.random.default_rng(1)
  truth = 400 * np.log10(0.6 / 0.4)
  inside = 0
  for _ in range(60):
    votes = [
      votes_lib.Vote(
        'text',
        'x',
        'y',
        'ab'[int(rng.random() > 0.6)],
        f's{i % stories}',
        str(i),
      )
      for i in range(120)
    ]
    found = ratings.rate(votes, 200)
    assert found['drawn'] == ('stories' if stories > 9 else 'votes')
    pair = found['axes']['text']['pairs'][0]
    inside += pair['low'] < truth < pair['high']
  assert 50 <= inside <= 60


def test_votes_that_are_needed():
  """55 % of wins, 34 points, need about 780 votes for 80 % power."""
  table = ratings.rate(votes_of(dict(a=55, b=45)), 2000)['axes']['text']
  (pair,) = table['pairs']
  assert not pair['apart']
  assert 560 < 100 + pair['votes_needed'] < 1000
  (pair,) = ratings.rate(votes_of(dict(a=80, b=20)), 200)['axes']['text'][
    'pairs'
  ]
  assert pair['apart'] and pair['votes_needed'] == 0
  (pair,) = ratings.rate(votes_of(dict(a=5, b=5)), 200)['axes']['text']['pairs']
  assert pair['votes_needed'] is None


def test_the_mean_over_the_axes():
  votes = votes_of(dict(a=60, b=40)) + votes_of(dict(a=30, b=70), 'motion')
  found = ratings.rate(votes, 200)
  assert list(found['axes']) == ['text', 'motion', 'mean']
  each = [found['axes'][k]['ratings']['x']['rating'] for k in found['axes']]
  np.testing.assert_allclose(each[2], (each[0] + each[1]) / 2)
  assert found['axes']['mean']['votes'] == 200


def test_alpha_of_krippendorffs_example():
  """The values of four observers, from his 'Computing alpha' (2011)."""
  nan = np.nan
  table = np.array(
    [
      [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
      [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
      [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
      [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
  )
  units = [column[~np.isnan(column)] for column in table.T]
  assert round(ratings.krippendorff_alpha(units), 3) == 0.849
  assert ratings.krippendorff_alpha([[1], [2]]) is None
  assert ratings.krippendorff_alpha([[1, 1], [1, 1]]) is None


def test_agreement_ignores_sides():
  def vote(a, b, choice, voter, story='s'):
    return votes_lib.Vote('text', a, b, choice, story, voter)

  votes = [
    vote('x', 'y', 'a', '1'),
    vote('y', 'x', 'b', '2'),
    vote('x', 'y', 'tie', '1', 't'),
    vote('y', 'x', 'bad', '2', 't'),
    vote('x', 'y', 'a', '3', 'alone'),
  ]
  found = ratings.agreement(votes)
  assert found == dict(questions=2, same=1.0, alpha=1.0)
  found = ratings.agreement(votes[4:])
  assert found == dict(questions=0, same=None, alpha=None)
