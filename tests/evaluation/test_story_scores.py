import pytest

from ttt_jax.evaluation import story_scores


def event(segment, since_last, right, kind='character', occurred=True):
  return story_scores.Event(
    kind=kind,
    subject='pip',
    segment=segment,
    since_first=3.0 * segment,
    since_last=since_last,
    is_return=since_last > 3,
    occurred=occurred,
    right=right,
    score=float(right),
    told=right,
  )


def story(name, text, events=(), right=1):
  return story_scores.StoryScore(
    story=name,
    axes=story_scores.with_mean(dict(consistency=0.5, text=text, motion=None)),
    parts={'text.place': text},
    events=tuple(events),
    counts={'look': story_scores.Count(right, 2, 0.25)},
  )


def test_axes_and_their_mean():
  axes = story_scores.with_mean(dict(consistency=0.5, text=1.0, motion=None))
  assert list(axes) == ['text', 'consistency', 'mean'] and axes['mean'] == 0.75
  assert story_scores.with_mean({}) == {}


def test_curve_counts_what_occurred_before_what_was_right():
  events = [
    event(1, 3.0, True),
    event(4, 9.0, True),
    event(5, 9.0, False),
    event(6, 12.0, False, occurred=False),
    event(7, 9.0, True, kind='place'),
  ]
  near, far = story_scores.curve([story('a', 1.0, events)], kind='character')
  assert (near['from'], near['to'], near['events']) == (0, 3.5, 1)
  assert near['right'] == near['right_if_occurred'] == 1
  assert far['events'] == 3 and far['occurred'] == pytest.approx(2 / 3)
  assert far['right_if_occurred'] == 0.5
  assert far['right'] == pytest.approx(1 / 3)
  assert far['low'] is None
  by_first = story_scores.curve([story('a', 1.0, events)], by='since_first')
  assert sum(row['events'] for row in by_first) == 5


def test_summary_draws_stories():
  # Events of one story are right or wrong together.
  stories = [
    story(f's{i}', i / 20, [event(2, 6.0, i % 2 == 0)] * 3, right=i % 3)
    for i in range(20)
  ]
  total = story_scores.summary(stories)
  text = total['axes']['text']
  assert text['mean'] == pytest.approx(0.475)
  assert 0.3 < text['low'] < 0.41 and 0.54 < text['high'] < 0.65
  (row,) = total['curves']['character']['since_last']
  assert row['events'] == 60 and row['right'] == 0.5
  # The interval is that of 20 draws, not of 60.
  assert row['low'] == pytest.approx(0.3, abs=0.1)
  assert total['returns']['all']['right'] == 0.5
  assert total['counts']['look']['total'] == 40
  assert total['counts']['look']['chance'] == 0.25
  with pytest.raises(ValueError, match='no stories'):
    story_scores.summary([])


def test_scores_by_model_are_those_that_ratings_take():
  scores = story_scores.by_model({'m': [story('a', 1.0)]})
  assert scores == {'m': {'a': {'text': 1.0, 'consistency': 0.5}}}
