"""examples/shapes: pictures, clips and captions of the procedural world."""

import numpy as np
import pytest

from examples.shapes import captions
from examples.shapes import world

ATTRIBUTES = world.Attributes('circle', 'red', 'green', 'field')


@pytest.mark.parametrize('shape', world.SHAPES)
def test_shapes_have_the_area_and_the_centre_of_their_circle(shape):
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


def test_a_picture_has_the_colours_of_its_attributes():
  frame = world.render(world.Scene(ATTRIBUTES, 20, 40))
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


def test_random_objects_are_complete():
  rng = np.random.default_rng(0)
  for attributes in world.all_attributes()[::7]:
    scene = world.random_scene(rng, attributes)
    share = world.coverage(attributes.shape, scene.x, scene.y, scene.radius)
    border = np.concatenate([share[0], share[-1], share[:, 0], share[:, -1]])
    assert border.max() < 0.5


def test_a_path_bounces_and_stays_inside():
  path = world.bounce(40, (20, 30), (7, 4), 10.0)
  assert path.shape == (40, 2) and tuple(path[0]) == (20, 30)
  low = 10 * world.REACH
  assert path.min() >= low and path.max() <= 64 - low
  steps = np.abs(np.diff(path[:, 0]))
  assert steps.max() == pytest.approx(7) and (np.diff(path[:, 0]) < 0).any()
  clip = world.render_clip(ATTRIBUTES, path[:3], 10.0)
  assert clip.shape == (3, 64, 64, 3)


def test_an_object_outside_is_refused():
  with pytest.raises(ValueError, match='is not within 64 x 64'):
    world.bounce(4, (5, 30), (1, 1), 10.0)


def test_attributes_must_be_known_and_visible():
  with pytest.raises(ValueError, match='expected one of circle, square'):
    world.Attributes('blob', 'red', 'green', 'field')
  with pytest.raises(ValueError, match='cannot be seen'):
    world.Attributes('star', 'red', 'red', 'field')


def test_captions_differ_and_are_parsed_back():
  texts = {
    captions.caption(attributes): attributes
    for attributes in world.all_attributes()
  }
  assert len(texts) == len(world.all_attributes()) == 450
  for text, attributes in texts.items():
    assert captions.parse(text) == attributes
  assert captions.caption(ATTRIBUTES) == 'a red circle over a green field'


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
def test_other_texts_are_not_captions(text):
  with pytest.raises(ValueError, match='is not a valid caption'):
    captions.parse(text)
