"""The verdict on a video of a story: its rows, and how it is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Any

import msgspec
from rich import console as rich_console
from rich import table as rich_table

from examples.cartoon import story as story_lib
from ttt_jax.evaluation import story_scores
from ttt_jax.runtime import files
from ttt_jax.runtime import schema

FORMAT = 'ttt_jax story scores'
VERSION = 1
_SECONDS = story_lib.SEGMENT_FRAMES / story_lib.FPS


@dataclasses.dataclass(frozen=True)
class CharacterRow:
  """A character that a segment should show.

  Attributes:
    name: Name.
    told: Words of the look that the story describes; '' for attributes that it
      leaves open.
    seen: Words of the look that was recognized; empty if it was not found.
    right: Whether each told attribute is seen.
    margin: Confidence in the least certain attribute, 0 to 1.
    told_acts: Acts that it should do, for example 'walk to the tree'.
    seen_act: Recognized act; '' if none was.
    act_right: Whether the 'action' and its 'target' are right, as far as the
      story has them.
  """

  name: str
  told: tuple[str, ...]
  seen: tuple[str, ...]
  right: dict[str, bool]
  margin: float
  told_acts: tuple[str, ...] = ()
  seen_act: str = ''
  act_right: dict[str, bool] = dataclasses.field(default_factory=dict)

  @property
  def is_right(self) -> bool:
    return bool(self.seen) and all(self.right.values())


@dataclasses.dataclass(frozen=True)
class SegmentRow:
  """The verdict on one segment.

  Attributes:
    segment: Index.
    place: Kind, colour and side in the story; '' for those left open.
    seen_place: Recognized kind, colour and side; empty if no place was.
    place_right: Whether each of those in the story is seen.
    prop: Prop of the story and its state at the end, or None.
    seen_prop: Recognized prop and state, or None.
    prop_right: Whether prop and state are right, or None if the story has none.
    characters: One row per character that should be seen.
    others: Looks of further characters.
  """

  segment: int
  place: tuple[str, ...]
  seen_place: tuple[str, ...]
  place_right: dict[str, bool]
  prop: tuple[str, int] | None
  seen_prop: tuple[str, int] | None
  prop_right: dict[str, bool] | None
  characters: tuple[CharacterRow, ...]
  others: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The verdict on a video.

  Attributes:
    score: Axes, memory events, and counts of attributes with their chance.
    segments: One row per segment.
  """

  score: story_scores.StoryScore
  segments: tuple[SegmentRow, ...]

  @property
  def axes(self) -> dict[str, float]:
    return self.score.axes

  @property
  def events(self) -> tuple[story_scores.Event, ...]:
    return self.score.events


def act_text(action: str, target: str, item: str) -> str:
  text = ' '.join(w for w in (action, item and f'a {item}') if w)
  if not target:
    return text
  where = {
    'enter': 'from the',
    'leave': 'to the',
    'hide': 'behind the',
    'wave': 'to',
    'change': 'the',
  }.get(action, 'to the')
  return f'{text} {where} {target}'


def _tick(right: bool | None) -> str:
  return '' if right is None else '[green]✓[/]' if right else '[red]✗[/]'


def _look_text(look: Sequence[str]) -> str:
  if not look:
    return 'nobody'
  species, colour, accessory, other = (w or '?' for w in look)
  return f'{colour} {species}, {other} {accessory}'


def _character_text(row: CharacterRow) -> str:
  text = f'{row.name.capitalize()}: {_look_text(row.seen)}'
  if row.is_right:
    return f'{text} {_tick(True)}'
  told = f' (told: {_look_text(row.told)})' if any(row.told) else ''
  return f'{text} {_tick(False)}{told}'


def _action_text(row: CharacterRow) -> str:
  seen = row.seen_act or 'nothing'
  if not row.act_right:
    return row.seen_act
  if all(row.act_right.values()):
    return f'{row.told_acts[0]} {_tick(True)}'
  return f'{seen} {_tick(False)} (told: {", ".join(row.told_acts)})'


def print_verdict(
  verdict: Verdict, console: rich_console.Console | None = None
) -> None:
  """Prints the verdict on a video as a table."""
  console = console or rich_console.Console()
  table = rich_table.Table(title=f'what {verdict.score.story} shows')
  for column in ('seconds', 'characters', 'actions', 'place', 'prop'):
    table.add_column(column)
  for row in verdict.segments:
    lines = [_character_text(c) for c in row.characters]
    lines += [f'and {_look_text(look)} [red]✗[/]' for look in row.others]
    place = ' '.join(
      [row.seen_place[1], row.seen_place[0]] if row.seen_place else ['none']
    )
    if row.seen_place:
      place += f', {row.seen_place[2]}'
    prop = ''
    if row.seen_prop or row.prop:
      kind, state = row.seen_prop or ('none', 0)
      prop = f'{kind}, changed' if state else kind
      if row.prop_right:
        prop += f' {_tick(all(row.prop_right.values()))}'
    table.add_row(
      f'{_SECONDS * row.segment:g}',
      '\n'.join(lines),
      '\n'.join(_action_text(c) for c in row.characters),
      f'{place} {_tick(all(row.place_right.values()))}',
      prop,
    )
  console.print(table)
  print_scores([verdict.score], console)


def print_scores(
  scores: Sequence[story_scores.StoryScore],
  console: rich_console.Console | None = None,
) -> None:
  """Prints axes, attributes with their chance, and memory events."""
  console = console or rich_console.Console()
  total = story_scores.summary(scores)
  table = rich_table.Table('axis', 'score')
  for name, value in total['axes'].items():
    table.add_row(name, _with_interval(value['mean'], value))
  console.print(table)
  table = rich_table.Table('attribute', 'right', 'chance', 'judged')
  for name, value in total['counts'].items():
    table.add_row(
      name.replace('_', ' '),
      _with_interval(value['right'], value),
      f'{value["chance"]:.1%}',
      f'{value["total"]}',
    )
  console.print(table)
  table = rich_table.Table(
    'memory: seconds since last seen', 'events', 'occurred', 'right'
  )
  for row in total['curves'].get('all', {}).get('since_last', ()):
    end = f'to {row["to"]:.0f}' if row['to'] else 'and more'
    table.add_row(
      f'{row["from"]:.0f} {end}',
      f'{row["events"]}',
      f'{row["occurred"]:.0%}',
      _with_interval(row['right'], row),
    )
  console.print(table)


def _with_interval(value: float, row: Mapping[str, Any]) -> str:
  text = f'{value:.3f}'
  if row['low'] is not None:
    text += f' ({row["low"]:.3f} to {row["high"]:.3f})'
  return text


def to_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
  """Returns the JSON value of verdicts, with their summary."""
  return files.to_json_types(
    dict(
      format=FORMAT,
      version=VERSION,
      summary=story_scores.summary([v.score for v in verdicts]),
      verdicts=[dataclasses.asdict(v) for v in verdicts],
    )
  )


def read_axes(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
  """Reads the axes of every story from a file of `to_json`.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is another kind of file.
  """
  value = files.read_json(path)
  found = value.get('format') if isinstance(value, dict) else None
  if found != FORMAT or value.get('version') != VERSION:
    raise ValueError(
      f'{path} has the format {schema.show(found)}; expected {FORMAT!r},'
      f' version {VERSION}, which the judge writes with --out'
    )
  result = schema.convert(value['verdicts'], list[_Verdict], str(path))
  return {
    v.score.story: {
      k: x for k, x in v.score.axes.items() if k in story_scores.AXES
    }
    for v in result
  }


class _Score(msgspec.Struct):
  story: str
  axes: dict[str, float]


class _Verdict(msgspec.Struct):
  score: _Score
