"""Checks of a config.json against the description of a format."""

import types

import pytest

from ttt_jax.convert import model_format

FIELDS = {
  'num_layers': ('depth', int),
  'channels': ('widths', list),
  'eps': ('norm_eps', 1e-5),
  'heads': ('num_heads', 8),
  'sample_size': ('size', None),
}
VALID = dict(num_layers=2, channels=[4, 8])


def test_names_and_defaults():
  found = model_format.read_fields(VALID | dict(eps=1, more='x'), FIELDS, 'f')
  assert found == dict(
    depth=2, widths=(4, 8), norm_eps=1, num_heads=8, size=None
  )
  written = model_format.write_fields(types.SimpleNamespace(**found), FIELDS)
  assert written == VALID | dict(eps=1, heads=8, sample_size=None)


def test_all_missing_fields_in_one_line():
  with pytest.raises(ValueError, match='^f lacks num_layers, channels$'):
    model_format.read_fields({}, FIELDS, 'f')


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(num_layers=0), 'num_layers is 0; it must be a whole number above 0$'),
    (dict(num_layers=True), 'num_layers is True; it must be a whole number'),
    (dict(num_layers=2.0), 'num_layers is 2.0; it must be a whole number'),
    (dict(num_layers=None), 'num_layers is None; it must be a whole number'),
    (dict(channels=[]), r'channels is \[\]; it must be a list of whole'),
    (dict(channels=[4, 0]), r'channels is \[4, 0\]; it must be a list'),
    (dict(channels=4), 'channels is 4; it must be a list'),
    (dict(eps='x'), "eps is 'x'; it must be a number above 0, for example 1e-"),
    (dict(eps=True), 'eps is True; it must be a number above 0'),
    (dict(eps=-1.0), 'eps is -1.0; it must be a number above 0'),
    (dict(heads=0), 'heads is 0; .* above 0, for example 8$'),
  ],
)
def test_invalid_sizes(change, message):
  with pytest.raises(ValueError, match=message):
    model_format.read_fields(VALID | change, FIELDS, 'f')


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
