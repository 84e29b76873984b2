"""ttt_jax/shapes: pictures, clips and captions of the procedural world."""

import numpy as np
import pytest

from examples.shapes import captions
from examples.shapes import world

LOOK = world.Look('circle', 'red', 'green', 'field')


@pytest.mark.parametrize('shape', world.SHAPES)
def test_shapes_have_the_area_of_their_circle_and_its_middle(shape):
  share = world.coverage(shape, 30.3, 33.6, 10.0)
  assert share.sum() == pytest.approx(np.pi * 100, rel=0.02)
  centres = np.arange(world.SIZE) + 0.5
  x = (share.sum(0) @ centres) / share.sum()
  y = (share.sum(1) @ centres) / share.sum()
  assert (x, y) == pytest.approx((30.3, 33.6), abs=0.15)


def test_edges_are_antialiased():
  share = world.coverage('circle', 32, 32, 10.0)
  edge = (share > 0) & (share < 1)
  assert 50 < edge.sum() < 100  # about the length of the outline
  assert (np.delete(share, np.s_[20:44], axis=0) == 0).all()


def test_a_picture_has_the_colours_of_its_look():
  frame = world.render(world.Scene(LOOK, 20, 40))
  assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8
  assert tuple(frame[40, 20]) == world.COLOURS['red']
  assert tuple(frame[0, 0]) == world.COLOURS['green']


def test_textures_have_two_tones():
  for texture, tones in (('field', 1), ('stripes', 2), ('checks', 2)):
    ground = world.background('blue', texture)
    assert len(np.unique(ground.reshape(-1, 3), axis=0)) == tones
  stripes = world.background('blue', 'stripes')
  assert (stripes[0] != stripes[8]).any()
  assert (stripes[0] == stripes[0, 0]).all()


def test_random_objects_are_whole():
  rng = np.random.default_rng(0)
  for look in world.looks()[::7]:
    scene = world.random_scene(rng, look)
    share = world.coverage(look.shape, scene.x, scene.y, scene.radius)
    border = np.concatenate([share[0], share[-1], share[:, 0], share[:, -1]])
    assert border.max() < 0.5


def test_a_path_bounces_and_stays_inside():
  path = world.bounce(40, (20, 30), (7, 4), 10.0)
  assert path.shape == (40, 2) and tuple(path[0]) == (20, 30)
  low = 10 * world.REACH
  assert path.min() >= low and path.max() <= 64 - low
  steps = np.abs(np.diff(path[:, 0]))
  assert steps.max() == pytest.approx(7) and (np.diff(path[:, 0]) < 0).any()
  clip = world.render_clip(LOOK, path[:3], 10.0)
  assert clip.shape == (3, 64, 64, 3)


def test_an_object_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='is not within 64 x 64'):
    world.bounce(4, (5, 30), (1, 1), 10.0)


def test_a_look_must_be_legal_and_visible():
  with pytest.raises(ValueError, match='legal are circle, square'):
    world.Look('blob', 'red', 'green', 'field')
  with pytest.raises(ValueError, match='cannot be seen'):
    world.Look('star', 'red', 'red', 'field')


def test_captions_are_all_different_and_read_back():
  texts = {captions.caption(look): look for look in world.looks()}
  assert len(texts) == len(world.looks()) == 450
  for text, look in texts.items():
    assert captions.parse(text) == look
  assert captions.caption(LOOK) == 'a red circle over a green field'


@pytest.mark.parametrize(
  'text',
  [
    '',
    'a red circle',
    'a red circle over green field',
    'a red circle over a green stripes',
    'A red circle over a green field',
    'a pink circle over a green field',
    'two red circles over a green field',
  ],
)
def test_other_texts_are_no_captions(text):
  with pytest.raises(ValueError, match='is no caption of the world'):
    captions.parse(text)
