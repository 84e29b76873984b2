"""Values that do not fit a schema are reported with location and value."""

from typing import Annotated, Any

import msgspec
import pytest

from ttt_jax.runtime import schema


class Entry(msgspec.Struct, forbid_unknown_fields=True):
  text: str
  scene: int | str | None = None
  start: schema.Seconds = 0.0
  name: schema.Text = 'x'
  marks: Annotated[list[bool], msgspec.Meta(min_length=1)] = []


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
      "entry 3 has the unknown key 'txt', 'x'; expected one of text, scene,"
      ' start, name, marks',
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
      '"name" of entry 3 is " "; expected a text that is not blank',
    ),
    (
      {'text': 'a', 'marks': []},
      '"marks" of entry 3 is []; expected a list of length >= 1',
    ),
    (
      {'text': 'a', 'marks': [True, 1]},
      'item 2 of "marks" of entry 3 is 1; expected true or false',
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
