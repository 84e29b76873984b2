"""HTML as nested function calls; texts are always escaped.

    tag('p', 'a < b ', tag('b', 'always'), class_='note')

is '<p class="note">a &lt; b <b>always</b></p>'.
"""

from __future__ import annotations

from collections.abc import Iterable
import html
import json
import math
from typing import Any

_VOID = {'br', 'hr', 'img', 'input', 'link', 'meta', 'source'}


class Markup(str):
  """A text that is HTML already."""


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
  """Returns an element.

  Args:
    name: Name of the element.
    *children: `Markup` is kept, other values become escaped text, None is
      left out, and the items of lists and iterators are children.
    **attributes: Attributes; '_' stands for '-', one at the end is dropped
      (`class_`). True is an attribute without a value, None and False are left
      out.
  """
  parts = [f'<{name}']
  for key, value in attributes.items():
    key = key.rstrip('_').replace('_', '-')
    if value is True:
      parts.append(f' {key}')
    elif value is not None and value is not False:
      parts.append(f' {key}="{html.escape(str(value))}"')
  parts.append('>')
  if name not in _VOID:
    parts += [join(*children), f'</{name}>']
  return Markup(''.join(parts))


def join(*children: Any) -> Markup:
  """Returns children of `tag` one after the other."""
  parts: list[str] = []
  for child in children:
    if child is None:
      continue
    if isinstance(child, Markup):
      parts.append(child)
    elif isinstance(child, Iterable) and not isinstance(child, str):
      parts.append(join(*child))
    else:
      parts.append(html.escape(str(child)))
  return Markup(''.join(parts))


def data(value: Any, **attributes: Any) -> Markup:
  """Returns an element that contains JSON for a script.

  Args:
    value: JSON value; numbers that are not finite become null.
    **attributes: Attributes of the element.
  """
  text = json.dumps(_finite(value), separators=(',', ':'), allow_nan=False)
  # '</script>' and '<!--' inside of a text must not end the element.
  return tag(
    'script',
    Markup(text.replace('<', '\\u003c')),
    type='application/json',
    **attributes,
  )


def _finite(value: Any) -> Any:
  if isinstance(value, dict):
    return {k: _finite(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_finite(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
