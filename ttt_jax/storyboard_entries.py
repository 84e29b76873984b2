"""Entries of the files of storyboards, as they are before shots are resolved.

`ttt_jax.storyboard` describes the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from ttt_jax.runtime import schema


class Shot(msgspec.Struct, forbid_unknown_fields=True):
  """A shot in a file."""

  text: schema.Prose = ''
  negative: schema.Prose = ''
  scene: int | str | None = None
  video: schema.Text | None = None
  start: schema.Seconds | None = None
  end: schema.Seconds | None = None


class Segment(Shot):
  """A segment in a file, with the two keys of the paper's files."""

  shot: str | msgspec.UnsetType = msgspec.UNSET
  repeat: Annotated[int, msgspec.Meta(ge=1)] = 1
  neg_text: schema.Prose | None = None
  requires_scene_transition: bool | None = None


class Board(msgspec.Struct, forbid_unknown_fields=True):
  """A storyboard in a file."""

  name: schema.Text | msgspec.UnsetType = msgspec.UNSET
  shots: dict[str, Any] = {}
  segments: list[Any] = []


class File(msgspec.Struct, forbid_unknown_fields=True):
  """A file with several storyboards."""

  shots: dict[str, Any] = {}
  storyboards: list[Any] = []


def are_captions(items: Sequence[Any], is_lines: bool) -> bool:
  """Returns whether every item is the caption of a separate video.

  In a list of one JSON value, a key such as "start" marks the segments of a
  storyboard. On lines of their own, only a key that refers to other segments
  does.
  """
  joins = {'shot', 'repeat', 'scene', 'requires_scene_transition'}
  if not is_lines:
    joins.update(Segment.__struct_fields__)
  joins -= {'text', 'video'}
  return bool(items) and all(
    isinstance(item, Mapping)
    and {'text', 'video'} <= item.keys()
    and not joins & item.keys()
    for item in items
  )


def is_storyboard(item: Any) -> bool:
  """Returns whether an item of a list is a storyboard, not a segment."""
  return isinstance(item, list) or (
    isinstance(item, Mapping) and 'segments' in item
  )


def read_segment(
  item: Any, shots: Mapping[str, Any], location: str
) -> tuple[dict[str, Any], int, bool | None]:
  """Returns a segment's fields, its count, and the paper's scene mark.

  Args:
    item: Entry of a segment, or the name of a shot; without shots a text.
    shots: Shots by name.
    location: Name of the segment in messages.

  Raises:
    ValueError: an unknown key, a value that is not valid, or a shot that is not
      defined.
  """
  if isinstance(item, str):
    item = {'shot': item} if shots else {'text': item}
  if not isinstance(item, Mapping):
    raise ValueError(
      f'{location} is {schema.show(item)}; expected a text or an object'
    )
  entry = schema.convert(item, Segment, location)
  for ours, paper in (
    ('negative', 'neg_text'),
    ('scene', 'requires_scene_transition'),
  ):
    if ours in item and paper in item:
      raise ValueError(f'{location} has both {ours!r} and {paper!r}; keep one')
  fields = {k: item[k] for k in Shot.__struct_fields__ if k in item}
  if entry.neg_text is not None:
    fields['negative'] = entry.neg_text
  if entry.shot is not msgspec.UNSET:
    if entry.shot not in shots:
      raise ValueError(
        f'{location} has the shot {entry.shot!r}, which is not defined;'
        f' expected one of {", ".join(shots) or "none"}'
      )
    fields = {**shots[entry.shot], **fields}
  return fields, entry.repeat, entry.requires_scene_transition
