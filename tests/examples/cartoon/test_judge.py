import dataclasses

import numpy as np
import pytest

from examples.cartoon import judge
from examples.cartoon import motion
from examples.cartoon import render
from examples.cartoon import script
from examples.cartoon import world


def video(story, change=None) -> np.ndarray:
  """6 frames per segment and one; `change` returns other states."""
  frames = []
  for i in range(6 * len(story.segments) + 1):
    state = motion.state(story, 8 * i)
    segment = max(i - 1, 0) // 6
    frames.append(render.frame(change(segment, state) if change else state))
  return np.stack(frames)


@pytest.fixture(scope='module')
def story():
  """Two characters in two places; a lamp is lit in segment 2."""
  drawn = world.draw_story(22, 4, split='test')
  assert len(drawn.cast) == 2 and drawn.change_segment(0) == 2
  return drawn


def test_a_true_video_has_all_right(story):
  found = judge.judge(video(story), story)
  assert found.axes['text'] > 0.99 and found.axes['consistency'] > 0.95
  assert all(c.is_right for row in found.segments for c in row.characters)
  assert found.segments[2].seen_prop == ('lamp', 1)
  assert {e.kind for e in found.events} == {'character', 'place', 'prop'}
  assert all(e.right and e.told for e in found.events)
  judge.print_verdict(found)
  assert judge.to_json([found])['summary']['axes']['text']['mean'] > 0.99


def test_another_look_at_return(story):
  """A script without looks cannot tell, but the first appearance can."""
  open_script = dataclasses.replace(script.of_story(story), looks={})

  def change(segment, state):
    if segment != 2:
      return state
    (character,) = state.characters
    look = dataclasses.replace(character.look, species='frog')
    return dataclasses.replace(
      state, characters=(dataclasses.replace(character, look=look),)
    )

  found = judge.judge(video(story, change), open_script, 'mine')
  assert found.axes['text'] > 0.99
  wrong = [e for e in found.events if not e.right]
  assert [(e.kind, e.segment, e.is_return) for e in wrong] == [
    ('character', 2, True)
  ]
  assert wrong[0].occurred and wrong[0].attributes['colour']
  assert not wrong[0].attributes['species']


def test_bad_frames(story):
  frames = np.zeros((26, 64, 96, 3), np.uint8)
  with pytest.raises(
    ValueError, match='26 frames for 4 segments; expected 193'
  ):
    judge.judge(frames, story)
  with pytest.raises(ValueError, match='frames are 64x64; expected'):
    judge.judge(frames[:25, :, :64], story)
