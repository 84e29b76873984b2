"""Cropping, resizing and softening of single frames."""

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


def test_sixteen_bits_are_resized_as_eight():
  rng = np.random.default_rng(0)
  pixels = rng.integers(80, 170, (40, 60, 3)).astype(np.uint8)
  deep = resize.resize_and_crop(pixels.astype(np.uint16) * 257, 16, 32)
  assert deep.dtype == np.float32 and deep.shape == (16, 32, 3)
  shallow = resize.resize_and_crop(pixels, 16, 32)
  assert np.abs(deep.clip(0, 65535) / 257 - shallow).max() < 1


def test_softening_is_the_filter_1_2_1():
  pixels = np.zeros((16, 16, 3), np.uint8)
  pixels[8, 8] = 160
  out = resize.soften(pixels)
  kernel = np.outer([1, 2, 1], [1, 2, 1]) * 10
  np.testing.assert_array_equal(out[7:10, 7:10, 0], kernel)
  assert out.sum() == 3 * 160
  flat = np.full((16, 16, 3), 77, np.uint8)
  np.testing.assert_array_equal(resize.soften(flat), flat)
