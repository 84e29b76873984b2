"""Checks of a config.json against the description of a format."""

import types

import pytest

from ttt_jax.convert import model_format
from ttt_jax.runtime import schema

FIELDS = {
  'num_layers': ('depth', model_format.REQUIRED),
  'channels': ('widths', model_format.REQUIRED),
  'eps': ('norm_eps', 1e-5),
  'heads': ('num_heads', 8),
  'sample_size': ('size', None),
}
KINDS = {
  'depth': schema.PositiveInt,
  'widths': schema.Levels,
  'norm_eps': schema.Epsilon,
  'num_heads': schema.PositiveInt,
  'size': schema.PositiveInt | None,
}
VALID = dict(num_layers=2, channels=[4, 8])


def test_names_and_defaults():
  found = model_format.read_fields(
    VALID | dict(eps=1, more='x'), FIELDS, 'f', KINDS
  )
  assert found == dict(
    depth=2, widths=(4, 8), norm_eps=1, num_heads=8, size=None
  )
  written = model_format.write_fields(types.SimpleNamespace(**found), FIELDS)
  assert written == VALID | dict(eps=1, heads=8, sample_size=None)


def test_all_missing_fields_in_one_line():
  with pytest.raises(ValueError, match='^f lacks num_layers, channels$'):
    model_format.read_fields({}, FIELDS, 'f', KINDS)


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(num_layers=0), 'f: num_layers is 0; expected a whole number >= 1$'),
    (dict(num_layers=True), 'num_layers is true; expected a whole number$'),
    (dict(num_layers=2.0), 'num_layers is 2.0; expected a whole number$'),
    (dict(num_layers=None), 'num_layers is null; expected a whole number$'),
    (dict(channels=[]), r'channels is \[\]; expected a list of length >= 1'),
    (dict(channels=[4, 0]), 'item 2 of channels is 0; expected a whole'),
    (dict(channels=4), 'channels is 4; expected a list'),
    (dict(eps='x'), 'eps is "x"; expected a number$'),
    (dict(eps=float('nan')), 'eps is NaN; expected a number > 0$'),
    (dict(eps=-1.0), 'eps is -1.0; expected a number > 0$'),
    (dict(heads=0, eps=0), 'eps is 0; .*; heads is 0; expected .* >= 1$'),
  ],
)
def test_invalid_sizes(change, message):
  with pytest.raises(ValueError, match=message):
    model_format.read_fields(VALID | change, FIELDS, 'f', KINDS)


def test_all_unsupported_options_in_one_line():
  fixed = dict(act='gelu', bias=True, dropout=0.0)
  model_format.check_fixed(dict(act='gelu', bias=True), fixed, 'f')
  with pytest.raises(ValueError, match="^f has act = 'relu': only 'gelu' is "):
    model_format.check_fixed(dict(act='relu'), fixed, 'f')
  with pytest.raises(
    ValueError, match='bias = False: .*; dropout = None: only 0.0 is supported$'
  ):
    found = dict(act='gelu', bias=False)
    model_format.check_fixed(found, fixed, 'f', required=True)


def test_a_file_without_an_object(tmp_path):
  (tmp_path / 'config.json').write_text('[]')
  with pytest.raises(ValueError, match='does not contain a JSON object'):
    model_format.read_object(tmp_path / 'config.json')
