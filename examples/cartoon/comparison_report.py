"""Tables of the comparison of mixers, from the results in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from rich import box
from rich import console as rich_console
from rich import table as rich_table

from examples.cartoon import judge
from examples.cartoon import story as story_lib
from examples.cartoon import world
from ttt_jax.evaluation import ratings
from ttt_jax.evaluation import story_scores
from ttt_jax.evaluation import votes
from ttt_jax.evaluation.story_scores import StoryScore
from ttt_jax.models.dit import mixers as mixers_lib
from ttt_jax.runtime import files
from ttt_jax.runtime import schema

# Attributes of characters, and how a table calls them.
_ATTRIBUTES = {
  'look': 'look',
  'place kind': 'place',
  'place colour': 'its colour',
  'action': 'action',
}

# Kinds of memory events that the tables show.
_RETURNING = ('place', 'character')
# A later text names the kind of a place, and neither colour nor side.
_CHANCE = 1 / (world.SETTINGS['simple'].colours * len(story_lib.SIDES))
_FEWEST = 20  # events of a point of a curve


def read_scores(
  workdir: pathlib.Path,
) -> dict[str, dict[str, list[StoryScore]]]:
  """Returns length -> mixer -> all scores, with 'seed/number' as the story."""
  found: dict[str, dict[str, list[StoryScore]]] = {}
  for path in sorted((workdir / 'verdicts').glob('*/*/*/*.json')):
    mixer, seed, length, name = path.relative_to(workdir / 'verdicts').parts
    score = schema.convert(files.read_json(path), StoryScore, f'{path}')
    score = dataclasses.replace(
      score, story=f'{seed}/{pathlib.Path(name).stem}'
    )
    found.setdefault(length, {}).setdefault(mixer, []).append(score)
  return found


def read(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the results as a JSON value.

  Args:
    workdir: Folder of the comparison.

  Returns:
    'lengths': for each length in seconds and mixer the summary of the scores
    with the number of 'seeds', and 'by_seed' the share of returning places that
    are as told; and 'ratings' if there are two mixers or more, which compares
    two of them on the stories that both have. 'cost': median seconds per step
    by mixer and stage. 'search': losses of the search by mixer and learning
    rate.

  Raises:
    ValueError: nothing was judged yet.
  """
  scores = read_scores(workdir)
  if not scores:
    raise ValueError(f'{workdir} has no verdicts yet')
  lengths = {}
  for length in sorted(scores, key=lambda x: int(x[:-1])):
    mixers = scores[length]
    value: dict[str, Any] = {
      'mixers': {
        mixer: story_scores.summary(mine) | _by_seed(mine)
        for mixer, mine in mixers.items()
      }
    }
    if len(mixers) > 1:
      verdicts = votes.verdicts_from_scores(
        story_scores.by_model(mixers), margin=judge.TIE
      )
      if verdicts:
        value['ratings'] = ratings.rate(verdicts)
    lengths[length] = value
  return files.to_json_types(
    dict(lengths=lengths, cost=_costs(workdir), search=_searches(workdir))
  )


def _by_seed(scores: Sequence[StoryScore]) -> dict[str, Any]:
  """Returns the number of seeds, and the results of each, as `read` does."""
  told: dict[str, list[bool]] = {}
  for score in scores:
    seed = score.story.partition('/')[0]
    told.setdefault(seed, []).extend(
      e.told for e in score.events if e.is_return and e.kind == 'place'
    )
  shares = {
    seed: float(np.mean(found)) if found else None
    for seed, found in sorted(told.items())
  }
  return dict(seeds=len(shares), by_seed=shares)


def _costs(workdir: pathlib.Path) -> dict[str, dict[str, float]]:
  """Returns mixer -> stage -> median seconds per step."""
  found: dict[str, dict[str, float]] = {}
  for path in sorted((workdir / 'runs').glob('*/*/*/metrics.jsonl')):
    mixer, _, stage, _ = path.relative_to(workdir / 'runs').parts
    rows = read_metrics(path)
    seconds = [row['time/step'] for row in rows[1:] if 'time/step' in row]
    if seconds:
      found.setdefault(mixer, {})[stage] = float(np.median(seconds))
  return found


def _searches(workdir: pathlib.Path) -> dict[str, dict[str, float]]:
  """Returns mixer -> learning rate -> loss of the search."""
  return {
    path.stem: files.read_json(path)
    for path in sorted((workdir / 'search').glob('*.json'))
  }


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the rows of a run's metrics.jsonl; repeated steps count once."""
  rows = map(json.loads, path.read_text().splitlines())
  return [*{row['step']: row for row in rows if 'loss' in row}.values()]


def search_loss(path: pathlib.Path, steps: int = 50) -> float:
  """Returns the mean loss of the last steps of a search.

  Args:
    path: Metrics of the run.
    steps: Number of steps.

  Returns:
    Infinity if the run diverged.
  """
  rows = read_metrics(path)
  last = max(row['step'] for row in rows)
  mean = np.mean([r['loss'] for r in rows if r['step'] > last - steps])
  return float(mean) if np.isfinite(mean) else float('inf')


def tables(results: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
  """Returns titles and rows, the header first, of all tables."""
  found = []
  for length, value in results['lengths'].items():
    names = [*value['mixers']]
    rated = value.get('ratings', {}).get('axes', {}).get('mean', {})
    names.sort(key=lambda n: -value['mixers'][n]['axes']['mean']['mean'])
    rows = [['mixer', 'runs', 'videos', *story_scores.AXES, 'mean']]
    ratings_rows = [['mixer', 'Elo', '95 %']]
    for name in names:
      mine = value['mixers'][name]
      axes = [
        f'{mine["axes"][axis]["mean"]:.3f}' if axis in mine['axes'] else '–'
        for axis in (*story_scores.AXES, story_scores.MEAN)
      ]
      rows.append([name, f'{mine["seeds"]}', f'{mine["stories"]}', *axes])
      if elo := rated.get('ratings', {}).get(name):
        interval = f'{elo["low"]:.0f} to {elo["high"]:.0f}'
        ratings_rows.append([name, f'{elo["rating"]:.0f}', interval])
    found.append((f'{length}: axes', rows))
    if len(ratings_rows) > 1:
      found.append((f'{length}: ratings of the mean of the axes', ratings_rows))
    found.append((f'{length}: right attributes', _attribute_rows(value, names)))
    found.append(
      (f'{length}: returns after an absence', _returns(value, names))
    )
    if any(value['mixers'][name]['seeds'] > 1 for name in names):
      title = f'{length}: returning places as told, by the seed of the training'
      found.append((title, _seed_rows(value, names)))
    for kind in _RETURNING:
      title = f'{length}: {kind}s right, by the time since they were last seen'
      found.append((title, _curve_rows(value, names, kind)))
  return found


def _attribute_rows(
  value: Mapping[str, Any], names: Sequence[str]
) -> list[list[str]]:
  rows = [['mixer', *_ATTRIBUTES.values()]]
  counts = [value['mixers'][name]['counts'] for name in names]
  for name, mine in zip(names, counts):
    rows.append(
      [name]
      + [f'{mine[k]["right"]:.1%}' if k in mine else '–' for k in _ATTRIBUTES]
    )
  chance = {k: m[k]['chance'] for m in counts for k in m}
  rows.append(
    ['chance']
    + [f'{chance[k]:.1%}' if k in chance else '–' for k in _ATTRIBUTES]
  )
  return rows


def _returns(value: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
  """Returns the shares of right returns, as the text told and as at first."""
  rows = [
    ['mixer']
    + [
      f'{kind}s {how}'
      for kind in _RETURNING
      for how in ('as told', 'as at first')
    ]
  ]
  for name in names:
    row = [name]
    for kind in _RETURNING:
      found = value['mixers'][name]['returns'].get(kind)
      row += (
        [
          _share(found, 'told', 'told_low', 'told_high'),
          _share(found, 'right', 'low', 'high'),
        ]
        if found
        else ['–', '–']
      )
    rows.append(row)
  return rows


def _seed_rows(
  value: Mapping[str, Any], names: Sequence[str]
) -> list[list[str]]:
  shares = {name: value['mixers'][name]['by_seed'] for name in names}
  seeds = sorted({seed for mine in shares.values() for seed in mine}, key=int)
  rows = [['mixer', *(f'seed {seed}' for seed in seeds)]]
  for name, mine in shares.items():
    found = (mine.get(seed) for seed in seeds)
    rows.append([name, *('–' if x is None else f'{x:.0%}' for x in found)])
  return rows


def _share(row: Mapping[str, Any], share: str, low: str, high: str) -> str:
  interval = '' if row[low] is None else f' ({row[low]:.0%} to {row[high]:.0%})'
  return f'{row[share]:.0%}{interval} of {row["events"]}'


def _curve_rows(
  value: Mapping[str, Any], names: Sequence[str], kind: str
) -> list[list[str]]:
  """Returns the share of right memory events of a kind by distance in time."""
  curves = {
    name: value['mixers'][name]['curves'].get(kind, {}) for name in names
  }
  columns: dict[tuple, None] = {}
  for curve in curves.values():
    for row in curve.get('since_last', ()):
      columns[row['from'], row['to']] = None
  header = [
    f'{a:g} to {b:g} s' if b is not None else f'{a:g} s and more'
    for a, b in columns
  ]
  rows = [['mixer', *header]]
  for name, curve in curves.items():
    mine = {(r['from'], r['to']): r for r in curve.get('since_last', ())}
    rows.append(
      [name]
      + [
        f'{mine[c]["right"]:.1%} of {mine[c]["events"]}' if c in mine else '–'
        for c in columns
      ]
    )
  return rows


def print_tables(
  results: Mapping[str, Any], console: rich_console.Console | None = None
) -> None:
  """Prints all tables."""
  console = console or rich_console.Console()
  for title, rows in tables(results):
    first, *others = rows[0]
    table = rich_table.Table(
      rich_table.Column(first, no_wrap=True),
      *others,
      title=title,
      box=box.SIMPLE_HEAD,
      padding=(0, 1, 0, 0),
    )
    for row in rows[1:]:
      table.add_row(*row)
    console.print(table)


def draw(results: Mapping[str, Any], path: pathlib.Path) -> None:
  """Draws how long places are remembered, and the ratings by length.

  Args:
    results: Result of `read`.
    path: PNG file to write.
  """
  # Figure and canvas without pyplot: no global state, no display.
  from matplotlib import figure
  from matplotlib.backends import backend_agg

  fig = figure.Figure(figsize=(10, 4), layout='constrained')
  backend_agg.FigureCanvasAgg(fig)
  left, right = fig.subplots(1, 2)
  *_, longest = results['lengths']
  names = [*results['lengths'][longest]['mixers']]
  names.sort(key=[*mixers_lib.MIXERS].index)
  colours = {name: f'C{i}' for i, name in enumerate(names)}
  for name in names:
    mixer = results['lengths'][longest]['mixers'][name]
    rows = [
      row
      for row in mixer['curves'].get('place', {}).get('since_last', ())
      if row['events'] >= _FEWEST
    ]
    left.plot(
      [(row['from'] + (row['to'] or int(longest[:-1]))) / 2 for row in rows],
      [100 * row['right'] for row in rows],
      marker='o',
      markersize=3,
      color=colours[name],
      label=name,
    )
  left.axhline(100 * _CHANCE, color='0.6', linestyle=':', label='chance')
  left.set(
    title=f'places as at first, videos of {longest[:-1]} s',
    xlabel='seconds since last seen',
    ylabel='%',
    ylim=(0, 100),
    xscale='log',
  )
  for i, name in enumerate(names):
    points = []
    for length, value in results['lengths'].items():
      rated = value.get('ratings', {}).get('axes', {}).get('mean', {})
      if elo := rated.get('ratings', {}).get(name):
        points.append(
          (int(length[:-1]), elo['rating'], elo['low'], elo['high'])
        )
    if points:
      x, y, low, high = np.array(points, float).T
      right.errorbar(
        x * (1 + 0.015 * (i - len(names) / 2)),  # Bars side by side.
        y,
        yerr=(np.maximum(y - low, 0), np.maximum(high - y, 0)),
        marker='o',
        markersize=3,
        linewidth=1,
        color=colours[name],
        label=name,
      )
  right.set(
    title='rating by the mean of the four axes',
    xlabel='seconds of the video',
    ylabel='Elo',
    xscale='log',
  )
  for axes, ticks in ((left, (3, 6, 12, 24, 48)), (right, (9, 18, 30, 63))):
    axes.set_xticks(ticks, [f'{tick}' for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
  left.legend(fontsize='x-small', ncols=2)
  with files.atomic_write(path) as temporary:
    fig.savefig(temporary, format='png', dpi=110)
