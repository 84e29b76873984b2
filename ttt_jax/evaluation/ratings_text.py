"""Tables of ratings for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import console as rich_console
from rich import table as rich_table

_MOST_PAIRS = 15


def show(result: Mapping[str, Any]) -> None:
  """Prints the result of `ratings.rate`, with the 'voters' that were read."""
  axes = result['axes']
  console = rich_console.Console()
  table = rich_table.Table(caption='rating and 95 % interval')
  table.add_column('model')
  for axis in axes:
    table.add_column(axis, justify='right')
  for model in result['models']:
    cells = []
    for axis in axes:
      r = axes[axis]['ratings'][model]
      cells.append(f'{r["rating"]:.0f}\n{r["low"]:.0f}-{r["high"]:.0f}')
    table.add_row(model, *cells)
  console.print(table)
  for line in lines(result):
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def lines(result: Mapping[str, Any]) -> list[str]:
  """Returns sentences about the votes, the intervals and the differences."""
  axes = result['axes']
  last = list(axes)[-1]
  table = axes[last]
  out = [
    f'{table["votes"]} votes of {table["voters"]} voters on'
    f' {table["stories"]} stories; intervals draw {result["drawn"]}'
  ]
  for voter in result.get('voters', ()):
    if voter['excluded']:
      out.append(
        f'{voter["name"]} is excluded: {voter["failed"]} of'
        f' {voter["checks"]} attention checks failed'
      )
    elif voter['skipped']:
      out.append(
        f'{voter["name"]} skipped {voter["skipped"]} questions, whose videos'
        ' could not be played'
      )
  unchecked = sum(not v['checks'] for v in result.get('voters', ()))
  if unchecked:
    out.append(f'{unchecked} voters answered no attention check')
  for axis, found in axes.items():
    if axis == last and len(axes) > 1:
      continue  # It repeats the notes of the others.
    out += [f'{axis}: {note}' for note in found['notes']]
  agreement = table['agreement']
  if agreement['questions']:
    alpha = agreement['alpha']
    shown = 'not defined' if alpha is None else f'{alpha:.2f}'
    out.append(
      f'agreement: {agreement["same"]:.0%} of the answers to the'
      f' {agreement["questions"]} questions that several voters answered are'
      f" the same, Krippendorff's alpha is {shown}"
    )
  else:
    out.append('agreement: no question was answered by two voters')
  close = [pair for pair in table['pairs'] if not pair['apart']]
  for pair in close[:_MOST_PAIRS]:
    needed = pair['votes_needed']
    more = 'more than 100,000' if needed is None else f'about {needed:,}'
    if not pair['votes']:
      more = 'an unknown number of'
    out.append(
      f'{last}: {pair["a"]} and {pair["b"]} differ by'
      f' {pair["difference"]:+.0f} [{pair["low"]:+.0f}, {pair["high"]:+.0f}]:'
      f' {more} more votes are needed to tell them apart'
    )
  if close[_MOST_PAIRS:]:
    out.append(f'and {len(close) - _MOST_PAIRS} more pairs')
  return out
