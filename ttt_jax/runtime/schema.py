"""Validates JSON values and configs by msgspec, with one-line errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import difflib
import functools
import json
import re
from typing import Annotated, Any, get_args, get_type_hints

import msgspec

# Lone surrogates and NUL can be neither written, printed nor tokenized.
Text = Annotated[
  str,
  msgspec.Meta(pattern=r'\A(?=.*\S)[^\x00-\x1f\x7f\ud800-\udfff]+\Z'),
]
Prose = Annotated[str, msgspec.Meta(pattern=r'\A[^\x00\ud800-\udfff]*\Z')]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
# Numbers of configs; the limits exclude infinity and NaN.
PositiveInt = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
NonNegativeFloat = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
FiniteFloat = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Epsilon = Annotated[float, msgspec.Meta(gt=0, le=1)]
# Layers or levels: each one takes time to trace.
Depth = Annotated[int, msgspec.Meta(ge=1, le=1000)]
# Sizes of the levels of a network.
Levels = Annotated[
  tuple[PositiveInt, ...], msgspec.Meta(min_length=1, max_length=10)
]
# JAX drops the higher bits.
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


# msgspec's words and those for users.
_TERMS = (
  (r'`|Expected ', ''),
  (r', got .*', ''),
  (r" matching regex '\\\\A\(.*'", ' that is not blank, of one line'),
  (r" matching regex '\\\\A\[.*'", ' without NUL and lone surrogates'),
  (r'(\w+)\.0\b', r'\1'),
  (r'\bstr\b', 'a text'),
  (r'\bint\b', 'a whole number'),
  (r'\bfloat\b', 'a number'),
  (r'\bbool\b', 'true or false'),
  (r'\barray\b', 'a list'),
  (r'\bobject\b', 'an object'),
  (r' \| ', ' or '),
  (r'a number >= -1000000000', 'a finite number'),
)


def convert(
  value: Any, kind: Any, location: str, *, strict: bool = True
) -> Any:
  """Returns a JSON value as an instance of `kind`.

  Args:
    value: Result of `json.load`.
    kind: Type that msgspec supports, at most one of them a Struct; Structs
      may contain others.
    location: Name of the value in messages, for example 'entry 3'. Keys are
      appended to a dotted name: 'config.data' gives 'config.data.fps'.
    strict: Whether a text stays a text; otherwise it may be a number.

  Raises:
    ValueError: unknown or missing keys, or a value of another type or range;
      one line with the location, the key, the value and what is expected.
  """
  try:
    return msgspec.convert(value, kind, strict=strict)
  except msgspec.ValidationError as e:
    reason, _, path = str(e).partition(' - at `$')
  for key, index in re.findall(r'\.(\w+)|\[(\d+|\.\.\.)\]', path):
    if index == '...':  # A value of a dict; msgspec does not name its key.
      kind = get_args(kind)[-1]
      key, value = _first_invalid(value, kind, strict)
      location = f'{key!r} of {location}'
      continue
    value = value[key or int(index)]
    struct = struct_of(kind)
    if key:
      kind = field_kinds(struct)[key] if struct else Any
    else:  # The kind of the items of a list.
      kind = next(iter(get_args(kind)), Any)
    if key and re.fullmatch(r'[\w.]+', location):
      location = f'{location}.{key}'
    else:
      name = f'"{key}"' if key else f'item {int(index) + 1}'
      location = f'{name} of {location}'
  if 'unknown field' in reason:
    check_keys(value, field_kinds(struct_of(kind)), location)
  if 'missing required' in reason:
    key = reason.split('`')[1]
    raise ValueError(f'{location} has no "{key}"')
  if 'enum value' in reason:
    names = [n for k in (kind, *get_args(kind)) for n in get_args(k)]
    names = [str(n) or "''" for n in names if isinstance(n, str | int)]
    reason = f'one of {", ".join(names)}'
  for pattern, term in _TERMS:
    reason = re.sub(pattern, term, reason)
  raise ValueError(f'{location} is {show(value)}; expected {reason}')


def _first_invalid(values: Any, kind: Any, strict: bool) -> tuple[str, Any]:
  """Returns the first item of a dict whose value is not of a kind."""
  for key, value in values.items():
    try:
      msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError:
      return str(key)[:40], value
  raise AssertionError('all values are valid')


def check_keys(
  found: Iterable[Any], known: Iterable[str], location: str
) -> None:
  """Raises ValueError for unknown keys, with the most similar known one."""
  known = list(known)
  unknown = [key for key in found if key not in known]
  if not unknown:
    return
  near = difflib.get_close_matches(str(unknown[0]), known, 1)
  hint = f'did you mean {near[0]!r}? ' if near else ''
  shown = ', '.join(repr(str(key)[:40]) for key in unknown[:5])
  more = f' and {len(unknown) - 5} more' if unknown[5:] else ''
  raise ValueError(
    f'{location} has the unknown key {shown}{more};'
    f' {hint}expected one of {", ".join(known)}'
  )


def construct(
  config_class: type[Any], fields: Mapping[str, Any], location: str
) -> Any:
  """Returns a dataclass with the fields of a JSON object.

  Args:
    config_class: Dataclass; `check_fields` in its `__post_init__` checks it.
    fields: Name -> value; lists become tuples.
    location: Name of the object in messages.

  Raises:
    ValueError: unknown or missing keys, or whatever the class raises.
  """
  check_keys(fields, field_kinds(config_class), location)
  for field in dataclasses.fields(config_class):
    is_required = field.default is field.default_factory  # Both are MISSING.
    if is_required and field.name not in fields:
      raise ValueError(f'{location} has no "{field.name}"')
  return config_class(
    **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
  )


def check_fields(config: Any, owner: str) -> None:
  """Raises ValueError for a field whose value is not of its annotated kind.

  For the `__post_init__` of a config, whose annotations state the type and
  the range of every field.

  Args:
    config: Dataclass.
    owner: Name of the config in messages.
  """
  for name, kind in field_kinds(type(config)).items():
    convert(getattr(config, name), kind, f'{owner}.{name}')


@functools.cache
def field_kinds(config_class: Any) -> dict[str, Any]:
  """Returns name -> kind of the fields of a dataclass or a Struct."""
  kinds = get_type_hints(config_class, include_extras=True)
  if struct_of(config_class):
    return {name: kinds[name] for name in config_class.__struct_fields__}
  return {f.name: kinds[f.name] for f in dataclasses.fields(config_class)}


def struct_of(kind: Any) -> type[msgspec.Struct] | None:
  """Returns the Struct of a kind such as `Entry | None`, if it has one."""
  for k in (kind, *get_args(kind)):
    if isinstance(k, type) and issubclass(k, msgspec.Struct):
      return k
  return None


def show(value: Any) -> str:
  """Returns the beginning of a value as JSON."""
  if isinstance(value, Mapping):
    return 'an object'
  text = json.dumps(value, ensure_ascii=False, default=repr)
  text = text.encode('utf-8', 'backslashreplace').decode()
  return text if len(text) <= 60 else text[:57] + '...'
