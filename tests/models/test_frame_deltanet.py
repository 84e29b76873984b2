"""Frames and convolutions of Frame DeltaNet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.compare import relative_error
from ttt_jax import token_order
from ttt_jax.models.dit import frame_deltanet

ORDER = token_order.TokenOrder(3, 2, 2, 3, 4)


@pytest.mark.parametrize('index', ['forward_order', 'reverse_order'])
def test_frames_of_a_scan_are_those_of_the_order(index):
  stored = np.arange(ORDER.length)[None]
  texts, frames = frame_deltanet.split_frames(
    jnp.asarray(stored[:, getattr(ORDER, index)]), ORDER
  )
  turn = -1 if index == 'reverse_order' else 1
  np.testing.assert_array_equal(texts[0], ORDER.text_index[::turn])
  np.testing.assert_array_equal(frames[0], ORDER.video_index[::turn, ::turn])


def test_joining_inverts_splitting():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, ORDER.length, 5)))
  texts, frames = frame_deltanet.split_frames(x, ORDER)
  np.testing.assert_array_equal(
    frame_deltanet.join_frames(texts, frames, ORDER), x
  )


def test_lengths_of_frames_are_those_of_the_order():
  ends = np.cumsum(frame_deltanet._frame_lengths(ORDER))
  is_text = ORDER.is_text[ORDER.forward_order]
  begins = np.concatenate([[0], ends[:-1]])
  kinds = [
    set(is_text[begin:end]) for begin, end in zip(begins, ends, strict=True)
  ]
  assert ends[-1] == ORDER.length
  assert all(len(kind) == 1 for kind in kinds)
  assert sum(kind == {True} for kind in kinds) == ORDER.segments


def test_convolution():
  """Against XLA's; the one over time sees no later frame."""
  rng = np.random.default_rng(0)
  b, f, rows, columns, features = 2, 7, 3, 4, 6
  x = rng.normal(size=(b, f, rows * columns, features)).astype(np.float32)
  space = rng.normal(size=(25, features)).astype(np.float32)
  time = rng.normal(size=(5, features)).astype(np.float32)
  layout = ('NHWC', 'HWIO', 'NHWC')

  def convolve(x, kernel, padding):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (1, 1),
      padding,
      dimension_numbers=layout,
      feature_group_count=features,
    )

  def reference(x, space, time):
    y = convolve(
      x.reshape(b * f, rows, columns, features),
      space.reshape(5, 5, 1, features),
      [(2, 2), (2, 2)],
    )
    return convolve(
      y.reshape(b, f, rows * columns, features),
      time.reshape(5, 1, 1, features),
      [(4, 0), (0, 0)],
    )

  @functools.partial(jax.jit, static_argnums=0)
  def value_and_gradients(function, *arguments):
    y, pull = jax.vjp(function, *arguments)
    return y, *pull(jnp.sin(jnp.arange(y.size)).reshape(y.shape))

  ours = functools.partial(frame_deltanet.convolve, rows=rows)
  for got, want in zip(
    value_and_gradients(ours, x, space, time),
    value_and_gradients(reference, x, space, time),
    strict=True,
  ):
    assert relative_error(got, want) < 1e-5
