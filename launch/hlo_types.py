"""Types as HLO writes them, such as `(bf16[4,128]{1,0:T(8,128)}, s32[])`."""

from __future__ import annotations

import math
import re

_BYTES = {
  'pred': 1,
  's4': 1,
  'u4': 1,
  's8': 1,
  'u8': 1,
  'f8e4m3fn': 1,
  'f8e5m2': 1,
  'bf16': 2,
  'f16': 2,
  's16': 2,
  'u16': 2,
  'f32': 4,
  's32': 4,
  'u32': 4,
  'f64': 8,
  's64': 8,
  'u64': 8,
  'c64': 8,
}
_SHAPE = re.compile(r'(\w+)\[([\d,]*)\]')


def size(type_text: str) -> int:
  """Bytes of a type as HLO writes it; tuples are added up, layouts ignored."""
  names = (name for name, _ in _SHAPE.findall(type_text))
  return sum(
    n * _BYTES.get(name, 0) for name, n in zip(names, elements(type_text))
  )


def elements(type_text: str) -> list[int]:
  """Elements of each array of a type."""
  return [
    math.prod(int(n) for n in dimensions.split(',') if n)
    for _, dimensions in _SHAPE.findall(type_text)
  ]


def arrays(type_text: str) -> list[str]:
  """'(f32[2]{0}, s32[])' -> ['f32[2]', 's32[]'], nested ones, too."""
  return [f'{name}[{sizes}]' for name, sizes in _SHAPE.findall(type_text)]


def split(text: str) -> tuple[str, str]:
  """'(f32[2], s32[]) while(...)' -> '(f32[2], s32[])', 'while(...)'."""
  if not text.startswith('('):
    kind, _, rest = text.partition(' ')
    return kind, rest
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      return text[: i + 1], text[i + 1 :].lstrip()
  return text, ''


def parts(text: str) -> list[str]:
  """'(f32[2], (s32[], f32[3]))' -> ['f32[2]', '(s32[], f32[3])']."""
  found, depth, start = [], 0, 1
  for i, letter in enumerate(text):
    depth += (letter in '([{') - (letter in ')]}')
    if (letter == ',' and depth == 1) or not depth:
      found.append(text[start:i].strip())
      start = i + 1
  return found
