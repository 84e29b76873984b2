"""Values that do not fit a schema are reported with location and value."""

import dataclasses
import re
from typing import Annotated, Any, Literal

import msgspec
import pytest

from ttt_jax.runtime import schema


class Entry(msgspec.Struct, forbid_unknown_fields=True):
  text: str
  scene: int | str | None = None
  start: schema.Seconds = 0.0
  name: schema.Text = 'x'
  kind: Literal['a'] = 'a'
  marks: Annotated[list[bool], msgspec.Meta(min_length=1)] = []
  votes: dict[str, list[int]] = {}


def test_a_value_that_fits():
  assert schema.convert({'text': 'a', 'start': 3}, Entry, 'it') == Entry(
    'a', start=3.0
  )
  assert schema.convert([1, 'a'], Entry | list[Any], 'it') == [1, 'a']


@pytest.mark.parametrize(
  'value, message',
  [
    ({}, 'entry 3 has no "text"'),
    (
      {'text': 'a', 'txt': 'b', 'x': 1},
      "entry 3 has the unknown key 'txt', 'x'; did you mean 'text'? expected"
      ' one of text, scene, start, name, kind, marks, votes',
    ),
    ({'text': None}, '"text" of entry 3 is null; expected a text'),
    (
      {'text': 'a', 'scene': 1.5},
      '"scene" of entry 3 is 1.5; expected a whole number or a text or null',
    ),
    (
      {'text': 'a', 'start': -1},
      '"start" of entry 3 is -1; expected a number >= 0',
    ),
    (
      {'text': 'a', 'start': float('inf')},
      '"start" of entry 3 is Infinity; expected a number <= 1000000000',
    ),
    (
      {'text': 'a', 'name': ' '},
      '"name" of entry 3 is " "; expected a text that is not blank, of one'
      ' line',
    ),
    (
      {'text': 'a', 'marks': []},
      '"marks" of entry 3 is []; expected a list of length >= 1',
    ),
    (
      {'text': 'a', 'marks': [True, 1]},
      'item 2 of "marks" of entry 3 is 1; expected true or false',
    ),
    (
      {'text': 'a', 'votes': {'x': [1], 'y': [2, '3']}},
      'item 2 of \'y\' of "votes" of entry 3 is "3"; expected a whole number',
    ),
    ('a', 'entry 3 is "a"; expected an object'),
  ],
)
def test_the_message_of_a_value_that_does_not_fit(value, message):
  with pytest.raises(ValueError) as e:
    schema.convert(value, Entry, 'entry 3')
  assert str(e.value) == message


def test_long_values_are_abbreviated():
  with pytest.raises(ValueError) as e:
    schema.convert({'text': ['a'] * 1000}, Entry, 'it')
  assert len(str(e.value)) < 120 and '...' in str(e.value)


@dataclasses.dataclass(frozen=True)
class Config:
  layers: schema.PositiveInt = 1
  sides: tuple[schema.PositiveInt, ...] = (2, 2)
  eps: schema.PositiveFloat | None = None

  def __post_init__(self):
    schema.check_fields(self, 'Config')


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(layers=0), 'Config.layers is 0; expected a whole number >= 1'),
    (dict(layers=True), 'Config.layers is true; expected a whole number'),
    (dict(layers=10**12), 'expected a whole number <= 1000000000'),
    (dict(sides=(2, 'x')), 'item 2 of Config.sides is "x"; expected a whole'),
    (dict(eps=float('nan')), 'Config.eps is NaN; expected a number > 0'),
    (dict(eps=float('inf')), 'Config.eps is Infinity; expected a number <='),
    (dict(eps='1'), 'Config.eps is "1"; expected a number or null'),
  ],
)
def test_the_annotations_of_a_config_are_its_ranges(fields, message):
  assert Config(eps=1).eps == 1
  with pytest.raises(ValueError, match=re.escape(message)):
    Config(**fields)


@pytest.mark.parametrize(
  'value, kind, message',
  [
    ({'start': -1}, Entry, 'config.data.start is -1; expected a number >= 0'),
    ('c', Literal['', 'b'], """config.data is "c"; expected one of '', b"""),
    ('c', Literal['a', 'b'] | None, """is "c"; expected one of a, b"""),
    (1, Literal['a', 'b'] | None, 'is 1; expected a text or null'),
    ({'start': 2, 'kind': 'x'}, Entry, """kind is "x"; expected one of a"""),
    (1.0, schema.Share, 'is 1.0; expected a number < 1'),
    (2**32, schema.Seed, 'expected a whole number <= 4294967295'),
  ],
)
def test_names_of_configs_are_dotted_and_kinds_are_plain(value, kind, message):
  if isinstance(value, dict):
    value = {'text': 'a'} | value
  with pytest.raises(ValueError, match=re.escape(message)):
    schema.convert(value, kind, 'config.data')


def test_texts_of_flags_become_numbers():
  assert schema.convert('7', schema.PositiveInt, '--steps', strict=False) == 7
  with pytest.raises(ValueError, match='--steps is "1.5"; expected a whole'):
    schema.convert('1.5', schema.PositiveInt, '--steps', strict=False)


def test_a_config_from_json_has_known_keys_and_tuples():
  made = schema.construct(Config, dict(sides=[1, 2]), 'config.model')
  assert made == Config(sides=(1, 2))
  with pytest.raises(ValueError, match="key 'layer'; did you mean 'layers'?"):
    schema.construct(Config, dict(layer=1), 'config.model')
