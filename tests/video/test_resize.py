"""Cropping, rotating and softening of single frames."""

import numpy as np

from ttt_jax.video import resize


def test_frames_are_cropped_to_the_centre():
  pixels = np.zeros((40, 200, 3), np.uint8)
  pixels[:, 60:140] = 200  # exactly the 2:1 middle

  def white(*args, **kwargs):
    """Returns the share of a row that is white, up to blur at its ends."""
    return (resize.resize_and_crop(*args, **kwargs)[8, :, 0] > 100).mean()

  assert white(pixels, 16, 32) == 1
  assert white(pixels, 16, 64) == 0.5
  # Pixels of half the width: the 2:1 centre has 160 of them.
  assert white(pixels, 16, 32, pixel_aspect=0.5) == 0.5
  tall = np.moveaxis(pixels, 0, 1)
  assert white(tall, 16, 64, quarter_turns=1) == 0.5
  # The rotation makes the pixels twice as wide.
  assert white(tall, 16, 64, quarter_turns=1, pixel_aspect=0.5) == 1


def test_quarter_turns_are_counterclockwise():
  pixels = np.zeros((32, 32, 3), np.uint8)
  pixels[:16, :] = 250  # bright top
  out = resize.resize_and_crop(pixels, 16, 16, quarter_turns=1)
  assert out[:, :4].min() > 200 and out[:, -4:].max() < 50  # bright left


def test_softening_is_the_filter_1_2_1():
  pixels = np.zeros((16, 16, 3), np.uint8)
  pixels[8, 8] = 160
  out = resize.resize_and_crop(pixels, 16, 16, soften=True)
  kernel = np.outer([1, 2, 1], [1, 2, 1]) * 10
  np.testing.assert_array_equal(out[7:10, 7:10, 0], kernel)
  assert out.sum() == 3 * 160
  flat = np.full((16, 16, 3), 77, np.uint8)
  np.testing.assert_array_equal(
    resize.resize_and_crop(flat, 16, 16, soften=True), flat
  )
