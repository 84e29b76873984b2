"""Captions of the world, in one grammar, and back.

a red circle over a green field
a blue star over yellow stripes
a white cross over purple checks
"""

from __future__ import annotations

import re

from examples.shapes import world

_any = '|'.join
_CAPTION = re.compile(
  rf'a (?P<colour>{_any(world.COLOURS)}) (?P<shape>{_any(world.SHAPES)})'
  rf' over (?P<article>a )?(?P<background>{_any(world.COLOURS)})'
  rf' (?P<texture>{_any(world.TEXTURES)})'
)


def caption(look: world.Look) -> str:
  """The caption of a look."""
  article = 'a ' if look.texture == 'field' else ''
  return (
    f'a {look.colour} {look.shape} over {article}{look.background}'
    f' {look.texture}'
  )


def parse(text: str) -> world.Look:
  """The look that a caption describes.

  Raises:
    ValueError: no caption of this grammar.
  """
  found = _CAPTION.fullmatch(text)
  fields = found.groupdict() if found else {'article': None, 'texture': ''}
  if (fields.pop('article') is None) == (fields['texture'] == 'field') or (
    not found
  ):
    raise ValueError(
      f'{text!r} is no caption of the world of shapes; write for example'
      " 'a red circle over a green field' or 'a blue star over yellow"
      " stripes'"
    )
  return world.Look(**fields)


def words() -> list[str]:
  """Every word of the grammar."""
  every = ['a', 'over', *world.COLOURS, *world.SHAPES, *world.TEXTURES]
  return sorted(every)
