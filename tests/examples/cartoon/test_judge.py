import dataclasses
import json

import numpy as np
import pytest

from examples.cartoon import degrade
from examples.cartoon import judge
from examples.cartoon import scoring
from examples.cartoon import script
from examples.cartoon import self_test
from examples.cartoon import sight
from examples.cartoon import verdict
from examples.cartoon import world
from ttt_jax.runtime import files

# Segments that were looked at: equal ones of other tests are not again.
SEEN: dict = {}


def judged(frames, story, told=None):
  seen = sight.watch(frames, len(story.segments), SEEN)
  return scoring.verdict(seen, told or story, story.name)


@pytest.fixture(scope='module')
def clip():
  """Two characters in two places; a lamp is lit in segment 2."""
  story = world.draw_story(22, 4, split='test')
  assert len(story.cast) == 2 and story.change_segment(0) == 2
  story = dataclasses.replace(story, segments=story.segments[:3])
  return degrade.Clip(story, length=24)


def test_a_true_video_has_all_right(clip, capsys):
  found = judged(clip.frames, clip.story)
  assert min(found.axes.values()) > 0.97, found.axes
  for row in found.segments:
    assert not row.others
    for character in row.characters:
      assert character.is_right and all(character.act_right.values())
  assert found.segments[2].seen_prop == ('lamp', 1)
  assert {e.kind for e in found.events} == {'character', 'place', 'prop'}
  assert all(e.occurred and e.right and e.told for e in found.events)
  assert found.score.counts['name'].share == 1
  verdict.print_verdict(found)
  printed = capsys.readouterr().out
  assert '✓' in printed and '✗' not in printed
  value = json.loads(json.dumps(verdict.to_json([found])))
  assert value['summary']['axes']['text']['mean'] > 0.99


def test_another_look_at_return(clip):
  """A script without looks cannot tell, but the first appearance can."""
  open_script = dataclasses.replace(script.of_story(clip.story), looks={})

  def change(i, state):
    if clip.segment(i) != 2:
      return state, {}
    (character,) = state.characters
    look = dataclasses.replace(character.look, species='frog')
    character = dataclasses.replace(character, look=look)
    return dataclasses.replace(state, characters=(character,)), {}

  found = judged(clip.changed(change), clip.story, open_script)
  assert found.axes['text'] > 0.97
  wrong = [e for e in found.events if not e.right]
  assert [(e.kind, e.segment, e.is_return) for e in wrong] == [
    ('character', 2, True)
  ]
  assert wrong[0].occurred and wrong[0].attributes['colour']
  assert not wrong[0].attributes['species']


def test_nothing_recognizable_does_not_occur():
  story = world.draw_story(0, 1, split='test')
  story = dataclasses.replace(story, segments=story.segments * 2)
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (13, 64, 96, 3), np.uint8)
  for frames in (np.zeros_like(noise), np.concatenate([noise, noise[1:]])):
    frames = frames[: 1 + 6 * len(story.segments)]
    found = judged(frames, story)
    assert found.axes['consistency'] == 0
    assert max(found.axes.values()) < 0.2, found.axes
    assert found.events and not any(e.occurred for e in found.events)


@pytest.mark.parametrize('name', ['shuffled', 'other look'])
def test_degraded_videos(clip, name):
  degradations = [d for d in degrade.DEGRADATIONS if d.name == name]
  result = self_test.run(
    clip, lambda x: judged(x, clip.story).axes, degradations, [1.0]
  )
  assert not result.problems, result.problems


@pytest.mark.parametrize('name', ['frozen', 'jitter', 'flicker'])
def test_degraded_motion(name):
  story = world.draw_story(0, 1, split='test')
  clip = degrade.Clip(story, length=24)
  degradations = [d for d in degrade.DEGRADATIONS if d.name == name]

  def axes_of(frames):
    # One segment has nothing to be consistent with.
    return judged(frames, story).axes | dict(consistency=1.0)

  result = self_test.run(clip, axes_of, degradations, [1.0])
  assert not result.problems, result.problems


def test_the_self_test_can_fail():
  (blur,) = [d for d in degrade.DEGRADATIONS if d.name == 'blur']
  true = dict(text=1.0, motion=1.0, aesthetics=1.0, consistency=1.0)

  def found(**axes):
    axes = {
      s: true | {k: v[i] for k, v in axes.items()}
      for i, s in enumerate((0.5, 1.0))
    }
    return self_test.check(blur, true, axes)

  assert not found(aesthetics=(0.8, 0.6))
  assert 'more and more: 1.000, 0.800, 0.800' in found(aesthetics=(0.8, 0.8))[0]
  problems = found(aesthetics=(0.8, 0.6), text=(1.0, 0.9))
  assert problems == ['blur of strength 1.00 changes text from 1.000 to 0.900']


@pytest.mark.slow  # 39 videos of 27 seconds.
def test_self_test_of_a_long_story():
  assert judge._self_test(9) == 0


def test_models_are_compared(clip, tmp_path):
  found = judged(clip.frames, clip.story)
  worse = dataclasses.replace(
    found, score=dataclasses.replace(found.score, axes=dict(text=0.5))
  )
  for name, each in (('good', found), ('bad', worse)):
    files.write_json(verdict.to_json([each]), tmp_path / f'{name}.json')
  out = tmp_path / 'verdicts.json'
  judge._compare([str(tmp_path / f'{n}.json') for n in ('good', 'bad')], out)
  (vote,) = files.read_json(out)['verdicts']
  assert (vote['axis'], vote['a'], vote['choice']) == ('text', 'good', 'a')
  with pytest.raises(ValueError, match='has the format .*ttt_jax verdicts'):
    verdict.read_axes(out)


def test_bad_frames(clip):
  frames = np.zeros((26, 64, 96, 3), np.uint8)
  with pytest.raises(
    ValueError, match='26 frames for 3 segments; expected 145'
  ):
    judge.judge(frames, clip.story)
  with pytest.raises(ValueError, match='frames are 64x64; expected'):
    judge.judge(frames[:25, :, :64], clip.story)
