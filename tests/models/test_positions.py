"""Positions of tokens as in the pre-trained models."""

import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax import token_order
from ttt_jax.models.dit import config as dit_config
from ttt_jax.models.dit import positions


def order(segments=1, rows=2, columns=3):
  return token_order.TokenOrder(segments, 4, rows, columns, text_length=5)


def test_windows_of_pre_training_size_count_from_zero():
  plain = positions.window_positions(order(), 'rope')
  np.testing.assert_array_equal(plain, order().window_positions)
  np.testing.assert_array_equal(
    positions.window_positions(order(), 'rope', (2, 3)), plain
  )


def test_other_sizes_are_fitted_and_centred():
  # 2 x 5 tokens are fitted into the width of 4 x 6 ones: round(2.4) = 2 rows in
  # the middle.
  wide = order(rows=2, columns=5)
  found = positions.window_positions(wide, 'rope', (4, 6))
  is_text = wide.window_positions[:, 0] < 0
  assert (found[is_text] == -1).all()
  time, row, column = found[~is_text].T
  np.testing.assert_array_equal(np.unique(time), np.arange(5))
  # diffusers: linspace(first, last * (n - 1) / n, n), also where first > 0.
  np.testing.assert_allclose(np.unique(row), [1, 1.5])
  np.testing.assert_allclose(np.unique(column), np.arange(5) * 6 / 5)


def test_sincos_rotates_nothing():
  assert (positions.window_positions(order(), 'sincos') == -1).all()


def test_the_table_of_sines():
  o = order()
  table = np.asarray(
    positions.table(o, o.length + 3, 16, 2.0, 1.0, jnp.float32)
  )
  assert table.shape == (o.length + 3, 16)
  assert (table[o.text_index] == 0).all() and (table[o.length :] == 0).all()
  # Token (time 2, row 1, column 2): 4 features of time, 6 of column, 6 of row.
  token = table[o.video_index[2, 1 * o.columns + 2]]
  parts = []
  for value, half in ((2, 2), (2 / 2, 3), (1 / 2, 3)):
    angle = value * 10_000.0 ** (-np.arange(half) / half)
    parts += [np.sin(angle), np.cos(angle)]
  np.testing.assert_allclose(token, np.concatenate(parts), atol=1e-6)


def test_every_segment_counts_its_own_frames():
  o = order(segments=3)
  table = np.asarray(positions.table(o, o.length, 16, 1.0, 1.0, jnp.float32))
  frames = table[o.video_index]
  np.testing.assert_array_equal(frames[1:5], frames[5:9])
  np.testing.assert_array_equal(frames[1:5], frames[9:13])
  assert not (frames[0] == frames[4]).all()


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(positions='learned'), "positions is 'learned'; expected one of rope"),
    (dict(base_rows=30), 'base_columns 0; set both, for example 30'),
    (dict(base_rows=-1, base_columns=2), 'base_rows is -1; expected a whole'),
  ],
)
def test_errors(fields, message):
  with pytest.raises(ValueError, match=message):
    dit_config.DiTConfig(**fields)
