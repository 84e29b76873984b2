"""The fields of a config as Markdown: type, range, default and description.

Descriptions are the entries of `Attributes` in the docstring of the class.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from typing import Any

import msgspec

from ttt_jax.runtime import schema


def find(name: str) -> Any:
  """Returns the class of a dotted name."""
  module, _, attribute = name.rpartition('.')
  return getattr(importlib.import_module(module), attribute)


def descriptions(config_class: type) -> dict[str, str]:
  """Returns the entries of `Attributes` in a class's docstring, by name."""
  text = inspect.getdoc(config_class) or ''
  section = re.search(r'^Attributes:\n((?:  .*\n?|\n)*)', text, re.M)
  entries = re.findall(
    r'^  (\w+): (.*(?:\n {4,}.*)*)', section[1] if section else '', re.M
  )
  return {name: ' '.join(entry.split()) for name, entry in entries}


def defaults(config_class: type) -> dict[str, Any]:
  """Returns the defaults of the fields that have one, by name."""
  if dataclasses.is_dataclass(config_class):
    found = {f.name: f.default for f in dataclasses.fields(config_class)}
    return {k: v for k, v in found.items() if v is not dataclasses.MISSING}
  names = msgspec.structs.fields(config_class)
  return {
    f.name: f.default for f in names if f.default is not msgspec.NODEFAULT
  }


def kind(annotation: Any) -> str:
  """Returns a type and its range in words."""
  return _words(msgspec.inspect.type_info(annotation))


def _words(info: Any) -> str:
  match info:
    case msgspec.inspect.IntType():
      return 'whole number' + _range(info)
    case msgspec.inspect.FloatType():
      return 'number' + _range(info)
    case msgspec.inspect.BoolType():
      return 'true or false'
    case msgspec.inspect.StrType():
      return 'text'
    case msgspec.inspect.NoneType():
      return 'none'
    case msgspec.inspect.LiteralType():
      return 'one of ' + ', '.join(f'`{v!r}`' for v in info.values)
    case msgspec.inspect.UnionType():
      return ' or '.join(_words(t) for t in info.types)
    case msgspec.inspect.DictType():
      return 'section'
    case msgspec.inspect.StructType():
      return f'section `{info.cls.__name__}`'
    case msgspec.inspect.TupleType():
      return 'list of ' + ', '.join(_words(t) for t in info.item_types)
    case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
      return f'list of {_words(info.item_type)}'
  return 'any'


def _range(info: Any) -> str:
  # Limits of this size only exclude infinity.
  limits = [
    f'{sign} {limit:g}'
    for sign, limit in (
      ('≥', info.ge),
      ('>', info.gt),
      ('≤', info.le),
      ('<', info.lt),
    )
    if limit is not None and abs(limit) < 2**32 - 1 and abs(limit) != 1e9
  ]
  return ' ' + ' and '.join(limits) if limits else ''


def rows(config_class: type) -> list[tuple[str, str, str, str]]:
  """Returns name, type, default ('' if required) and description of fields."""
  known, found = defaults(config_class), descriptions(config_class)
  return [
    (
      name,
      kind(annotation),
      f'`{known[name]!r}`' if name in known else '',
      found.get(name, ''),
    )
    for name, annotation in schema.field_kinds(config_class).items()
  ]


def markdown(name: str, prefix: str = '') -> list[str]:
  """Returns the fields of a dataclass or a Struct as lines of Markdown.

  Args:
    name: Dotted name of the class.
    prefix: Text before the name of each field.
  """
  lines = []
  for field, words, default, description in rows(find(name)):
    end = f', default {default}' if default else ', required'
    lines += [f'`{prefix}{field}`', f': {description} *({words}{end})*', '']
  return lines
