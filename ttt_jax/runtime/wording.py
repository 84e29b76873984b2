"""Numbers of things in messages: '1 video', '2 videos'."""

from __future__ import annotations


def count(number: int, noun: str, then: str = '') -> str:
  """Returns a number with its noun, and with the verb that fits.

  Args:
    number: Number of things.
    noun: Name of one of them, whose plural ends in 's' ('y' becomes 'ies').
    then: Text after it, which begins with the verb of one thing: 'is', 'has',
      'was', 'makes' or 'belongs'.

  Example:
    >>> count(1, 'scene', 'is too short'), count(2, 'story')
    ('1 scene is too short', '2 stories')
  """
  if number != 1:
    noun = f'{noun[:-1]}ies' if noun.endswith('y') else f'{noun}s'
    verb, space, rest = then.partition(' ')
    then = _PLURALS.get(verb, verb) + space + rest
  return f'{number} {noun} {then}'.rstrip()


_PLURALS = {
  'belongs': 'belong',
  'has': 'have',
  'is': 'are',
  'makes': 'make',
  'was': 'were',
}
