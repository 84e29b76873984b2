"""Writes and parses captions of the world, which have one grammar:

a red circle over a green field
a blue star over yellow stripes
a white cross over purple checks
"""

from __future__ import annotations

import re

from examples.shapes import world

_alternatives = '|'.join
_CAPTION = re.compile(
  rf'a (?P<colour>{_alternatives(world.COLOURS)})'
  rf' (?P<shape>{_alternatives(world.SHAPES)})'
  rf' over (?P<article>a )?(?P<background>{_alternatives(world.COLOURS)})'
  rf' (?P<texture>{_alternatives(world.TEXTURES)})'
)


def caption(attributes: world.Attributes) -> str:
  """Returns the caption of attributes."""
  article = 'a ' if attributes.texture == 'field' else ''
  return (
    f'a {attributes.colour} {attributes.shape} over'
    f' {article}{attributes.background} {attributes.texture}'
  )


def parse(text: str) -> world.Attributes:
  """Returns the attributes that a caption describes.

  Raises:
    ValueError: the text does not match the grammar.
  """
  match = _CAPTION.fullmatch(text)
  fields = match.groupdict() if match else {'article': None, 'texture': ''}
  has_article = fields.pop('article') is not None
  if not match or has_article != (fields['texture'] == 'field'):
    raise ValueError(
      f'{text!r} is not a valid caption; write for example'
      " 'a red circle over a green field' or 'a blue star over yellow"
      " stripes'"
    )
  return world.Attributes(**fields)


def words() -> list[str]:
  """Returns all words of the grammar."""
  return sorted(['a', 'over', *world.COLOURS, *world.SHAPES, *world.TEXTURES])
