"""The closed vocabulary of the cartoon world.

Every word is a single lower-case word; '.' and ',' are tokens of their own.
"""

from __future__ import annotations

import difflib
import re

from ttt_jax import storyboard

LENGTH = 30  # tokens per caption, at most; without the tokens of scenes

NAMES = (
  'pip',
  'mo',
  'lulu',
  'kit',
  'bo',
  'zaza',
  'tam',
  'ivy',
  'rex',
  'nia',
  'odo',
  'fay',
)
SPECIES = ('fox', 'rabbit', 'bear', 'duck', 'frog')
COLOURS = ('red', 'blue', 'yellow', 'green', 'purple', 'white')
ACCESSORIES = ('scarf', 'hat', 'cape', 'coat')
PLACES = ('barn', 'boat', 'kitchen', 'tower', 'tent', 'mill')
LANDMARKS = ('tree', 'palm', 'window', 'fountain', 'pine', 'well')
COVERS = ('hay', 'barrel', 'table', 'rock', 'log', 'bush')
PROPS = ('lamp', 'jug', 'chest', 'flag')
ITEMS = ('cake', 'ball', 'box')

# Verbs of each action, the plainest one first.
VERBS = {
  'walk': ('walks', 'strolls', 'goes'),
  'run': ('runs', 'races', 'dashes'),
  'jump': ('jumps', 'hops', 'leaps'),
  'wave': ('waves',),
  'carry': ('carries', 'brings'),
  'hold': ('holds', 'shows'),
  'fall': ('falls', 'trips', 'stumbles'),
  'hide': ('hides', 'crouches'),
  'wait': ('waits', 'stands', 'rests'),
  'enter': ('comes', 'walks', 'runs'),
  'leave': ('leaves', 'walks', 'runs'),
}
# Change of each prop by a character.
CHANGES = {
  'lamp': 'lights',
  'jug': 'breaks',
  'chest': 'opens',
  'flag': 'raises',
}
_GRAMMAR = (
  *('a', 'the', 'and', 'of', 'to', 'at', 'in', 'by', 'near', 'from', 'with'),
  *('is', 'its', 'stove', 'left', 'right', 'behind', 'away', 'up', 'down'),
  *('slowly', 'quickly', 'happily', 'high', 'still', 'now', 'then'),
  *('camera', 'pans'),
)
SCENE_TOKENS = (storyboard.START_SCENE, storyboard.END_SCENE)

# The order is part of trained models: new words go to the end.
VOCABULARY: tuple[str, ...] = tuple(
  dict.fromkeys(
    (
      *SCENE_TOKENS,
      *('.', ','),
      *NAMES,
      *SPECIES,
      *COLOURS,
      *ACCESSORIES,
      *PLACES,
      *LANDMARKS,
      *COVERS,
      *PROPS,
      *ITEMS,
      *(verb for verbs in VERBS.values() for verb in verbs),
      *CHANGES.values(),
      *_GRAMMAR,
    )
  )
)

_KNOWN = frozenset(VOCABULARY)
_TOKEN = re.compile(
  '|'.join([*map(re.escape, SCENE_TOKENS), r"[^\W\d_]+(?:['’-]\w+)*", r'\S'])
)


def tokens(text: str, segment: int | None = None) -> list[str]:
  """Splits a caption into words of the vocabulary.

  Args:
    text: Caption; upper and lower case are the same.
    segment: Number of its segment, counted from 1, for the message.

  Returns:
    Words and punctuation marks.

  Raises:
    ValueError: a word is not in the vocabulary; with the nearest known words.
  """
  found = _TOKEN.findall(text.lower())
  for token in found:
    if token not in _KNOWN:
      where = '' if segment is None else f' of segment {segment}'
      raise ValueError(
        f'the word {token!r}{where} is unknown; {_nearest(token)}'
      )
  return found


def _nearest(token: str) -> str:
  near = difflib.get_close_matches(token, VOCABULARY, n=3, cutoff=0.5)
  if near:
    return f'the nearest known words are {", ".join(near)}'
  return (
    f'known are for example the animals {", ".join(SPECIES)} and the places'
    f' {", ".join(PLACES)}'
  )
