"""examples/shapes/judge.py: accepts rendered clips, and rejects others."""

import numpy as np
import pytest

from examples.shapes import captions
from examples.shapes import judge
from examples.shapes import world

PATH = world.bounce(6, (20, 22), (6, 4), 10.0)
PROMPT = 'a red circle over a green field'


def clip(prompt: str, path: np.ndarray = PATH) -> np.ndarray:
  return world.render_clip(captions.parse(prompt), path, 10.0)


@pytest.mark.parametrize('noise', [0, 20])
def test_detects_the_attributes_of_pictures(noise):
  rng = np.random.default_rng(noise)
  wrong = []
  for attributes in world.all_attributes()[noise % 7 :: 9]:
    scene = world.random_scene(rng, attributes)
    frame = world.render(scene) + rng.normal(0, noise, (64, 64, 3))
    detection = judge.detect(np.clip(frame, 0, 255).astype(np.uint8))
    found = [getattr(detection, name) for name in judge.ASPECTS]
    if found != [getattr(attributes, name) for name in judge.ASPECTS]:
      wrong.append((attributes, detection))
    assert detection.center == pytest.approx((scene.x, scene.y), abs=0.8)
  assert not wrong


def test_a_rendered_clip_follows_its_caption():
  found = judge.judge(clip(PROMPT), PROMPT, PATH)
  assert found.followed and found.share == 1 and found.consistency == 1
  assert found.correlation > 0.999 and found.flicker == 0
  assert set(found.aspects.values()) == {1.0}


def test_a_texture_may_begin_with_either_tone():
  frame = np.array(world.background('green', 'checks', True)).astype(np.uint8)
  usual = world.background('green', 'checks')
  assert (frame != usual).any(-1).all()
  assert judge.detect(frame).texture == 'checks'


@pytest.mark.parametrize(
  'prompt,aspect',
  [
    ('a red square over a green field', 'shape'),
    ('a blue circle over a green field', 'colour'),
    ('a red circle over a white field', 'background'),
    ('a red circle over green checks', 'texture'),
  ],
)
def test_each_wrong_aspect_is_found(prompt, aspect):
  found = judge.judge(clip(PROMPT), prompt, PATH)
  assert not found.followed and found.share == 0
  assert {k for k, v in found.aspects.items() if v == 0} == {aspect}
  assert found.correlation > 0.999  # The motion is that of the source.


def test_the_majority_of_frames_decides():
  frames = clip(PROMPT)
  other = clip('a blue circle over a green field')
  for wrong, followed in ((2, True), (3, False)):
    mixed = np.concatenate([other[:wrong], frames[wrong:]])
    found = judge.judge(mixed, PROMPT, PATH)
    assert found.followed == followed
    assert found.aspects['colour'] == pytest.approx(1 - wrong / 6)
    assert found.consistency == pytest.approx(4 / 5)


def test_other_motion_is_found():
  frames = clip(PROMPT)
  assert judge.judge(frames[::-1], PROMPT, PATH).correlation < 0
  still = np.repeat(frames[:1], 6, axis=0)
  assert judge.judge(still, PROMPT, PATH).correlation == 0
  shuffled = judge.judge(frames[[3, 0, 5, 1, 4, 2]], PROMPT, PATH)
  assert shuffled.correlation < 0.5


def test_a_constant_coordinate_counts_by_what_moves_along_it():
  level = world.bounce(6, (20, 32), (4, 0), 10.0)
  assert judge.correlation(level + (3, 5), level) == pytest.approx(1)
  noise = np.array([[0, 1], [0, -1]] * 3)
  assert 0.9 < judge.correlation(level + 0.5 * noise, level) < 1
  assert judge.correlation(level + 8 * noise, level) < 0.7
  with pytest.raises(ValueError, match='does not move'):
    judge.correlation(level, np.full((6, 2), 30.0))


def test_too_few_frames_with_an_object_have_no_path():
  frames = clip(PROMPT)
  frames[:1] = world.background('green', 'field')
  assert judge.judge(frames, PROMPT, PATH).correlation > 0.99
  frames[:3] = world.background('green', 'field')
  found = judge.judge(frames, PROMPT, PATH)
  assert found.correlation == 0 and found.aspects['shape'] == 0.5


@pytest.mark.parametrize(
  'frame',
  [
    np.random.default_rng(0).integers(0, 256, (64, 64, 3)),
    np.full((64, 64, 3), 128),
  ],
)
def test_pictures_of_other_worlds_have_no_attributes(frame):
  found = judge.detect(frame.astype(np.uint8))
  assert found.shape is None and found.background is None


def test_unknown_shapes_and_colours_are_none():
  frame = np.array(world.background('white', 'field'))
  frame[20:24, 8:56] = world.COLOURS['red']
  detection = judge.detect(frame.astype(np.uint8))
  assert detection.colour == 'red' and detection.shape is None
  frame[20:40, 20:40] = 0
  assert judge.detect(frame.astype(np.uint8)).colour is None


def test_a_flickering_background_is_measured():
  frames = clip(PROMPT).astype(int)
  frames[::2] += 8
  found = judge.judge(np.clip(frames, 0, 255).astype(np.uint8), PROMPT, PATH)
  assert found.followed and 7 < found.flicker <= 8
