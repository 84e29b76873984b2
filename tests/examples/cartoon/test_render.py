import dataclasses

import numpy as np
import pytest

from examples.cartoon import motion
from examples.cartoon import render
from examples.cartoon import world


@pytest.mark.parametrize('size', [(32, 48), (64, 96), (128, 192)])
def test_same_picture_at_any_size(size):
  height, width = size
  story = world.draw_story(0, 3)
  frames = render.frames(story, height, width, first=46, count=3)
  assert frames.shape == (3, height, width, 3) and frames.dtype == np.uint8
  large = render.frames(story, 128, 192, first=46, count=3)
  factor = 128 // height
  small = large.reshape(3, height, factor, width, factor, 3).mean((2, 4))
  assert np.abs(small - frames).mean() < 6


def test_cuts_are_seen_and_other_frames_follow():
  story = world.draw_story(1, 6)
  frames = render.frames(story).astype(float)
  steps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
  cuts = {
    48 * i
    for i, (a, b) in enumerate(zip(story.segments, story.segments[1:]), 1)
    if a.scene != b.scene
  }
  assert cuts
  for i, step in enumerate(steps):
    assert step > 15 if i in cuts else step < 12


def test_every_attribute_is_seen():
  story = world.draw_story(0, 1)
  state = motion.state(story, 10)
  shown = render.frame(state)
  (character,) = state.characters
  for field, values in (
    ('species', ('fox', 'frog')),
    ('colour', ('red', 'blue')),
    ('accessory', ('hat', 'coat')),
    ('accessory_colour', ('red', 'blue')),
  ):
    for value in values:
      if getattr(character.look, field) == value:
        continue
      look = dataclasses.replace(character.look, **{field: value})
      other = dataclasses.replace(
        state, characters=(dataclasses.replace(character, look=look),)
      )
      assert np.abs(shown - render.frame(other).astype(float)).max() > 40


def test_bad_size():
  with pytest.raises(ValueError, match='the size is 64x64; expected a width'):
    render.frame(motion.state(world.draw_story(0, 1), 0), 64, 64)
