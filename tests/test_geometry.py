"""Tests of sizes and token orders of a video."""

import numpy as np
import pytest

from ttt_jax import geometry
from ttt_jax import token_order


@pytest.mark.parametrize(
  'seconds,frames,latent_frames,segments',
  [
    (3, 49, 13, 1),
    (9, 145, 37, 3),
    (18, 289, 73, 6),
    (30, 481, 121, 10),
    (63, 1009, 253, 21),
  ],
)
def test_lengths_of_the_paper(seconds, frames, latent_frames, segments):
  g = geometry.Geometry.from_seconds(seconds, 480, 720)
  assert (g.frames, g.latent_frames, g.segments) == (
    frames,
    latent_frames,
    segments,
  )
  assert g.tokens_per_frame == 1350
  assert g.sequence_length == 1350 * latent_frames + 226 * segments


def test_any_text_length_is_padded_to_complete_mini_batches():
  g = geometry.Geometry.from_seconds(9, 64, 96, text_length=7, mini_batch=64)
  assert g.sequence_length == 37 * 24 + 3 * 7
  assert (g.mini_batches, g.padded_length) == (15, 960)


@pytest.fixture
def order():
  return token_order.TokenOrder(
    segments=3, segment_latent_frames=2, rows=1, columns=2, text_length=2
  )


def test_scan_orders_are_permutations(order):
  for permutation in (order.forward_order, order.reverse_order):
    assert sorted(permutation) == list(range(order.length))
    back = np.argsort(permutation)
    np.testing.assert_array_equal(permutation[back], np.arange(order.length))


def test_forward_order_is_text_then_video_segment_by_segment(order):
  text, video = order.text_index, order.video_index
  expected = [
    *text[0],
    *video[:3].ravel(),
    *text[1],
    *video[3:5].ravel(),
    *text[2],
    *video[5:].ravel(),
  ]
  np.testing.assert_array_equal(order.forward_order, expected)


def test_reverse_order_reverses_video_tokens_and_segments_not_texts(order):
  text, video = order.text_index, order.video_index[::-1, ::-1]
  expected = [
    *text[2],
    *video[:3].ravel(),
    *text[1],
    *video[3:5].ravel(),
    *text[0],
    *video[5:].ravel(),
  ]
  np.testing.assert_array_equal(order.reverse_order, expected)


def test_storage_order_makes_windows_contiguous(order):
  for i in range(order.segments):
    window = np.arange(order.window) + i * order.stride
    frames = order.video_index[2 * i : 2 * i + 3].ravel()
    assert set(window) == set(frames) | set(order.text_index[i])


def test_positions(order):
  scanned = order.ttt_positions
  np.testing.assert_array_equal(
    scanned[:, 0],
    [-1, -1, 0, 0, 1, 1, 2, 2, -1, -1, 3, 3, 4, 4, -1, -1, 5, 5, 6, 6],
  )
  np.testing.assert_array_equal(
    order.window_positions[:, 0], [0, 0, -1, -1, 1, 1, 2, 2]
  )
  np.testing.assert_array_equal(
    order.is_text[order.forward_order], scanned[:, 0] == -1
  )


@pytest.mark.parametrize(
  'make,message',
  [
    (
      lambda: geometry.Geometry.from_seconds(4, 64, 96),
      '4 seconds .* multiple of 3 s, for example 3',
    ),
    (lambda: geometry.Geometry.from_seconds(0, 64, 96), '0 seconds'),
    (
      lambda: geometry.Geometry.from_seconds(3, 64, 96, fps=0),
      'fps is 0; it must be 1 or more',
    ),
    (
      lambda: geometry.FrameGeometry(8, 10**9, 64, 8, 77),
      'height is 1000000000 pixels; at most 16384 are possible',
    ),
    (
      lambda: geometry.Geometry.from_seconds(3, 70, 96),
      'height is 70 pixels; .* multiple of 16, for example 64',
    ),
    (lambda: geometry.Geometry(50, 64, 96), '50 frames .* example 49'),
    (
      lambda: geometry.Geometry.from_seconds(1500, 64, 96),
      '500 segments; at most 200',
    ),
    (
      lambda: geometry.Geometry.from_seconds(3, 64, 96, mini_batch=0),
      'mini_batch is 0',
    ),
  ],
)
def test_errors_of_impossible_sizes_name_a_valid_size(make, message):
  with pytest.raises(ValueError, match=message):
    make()
