"""Charts of the diagnostics per layer: gates, inner losses and others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import itertools
import re

import numpy as np

from ttt_jax.inspection import stage as stage_lib
from ttt_jax.pages import charts
from ttt_jax.pages import html
from ttt_jax.pages import page

tag, join = html.tag, html.join

_LAYER = re.compile(r'(.+)/(\d\d+)')
_MOST_LINES = 8  # More layers become a heat map.
# Name -> (steps [n], values [n, layers]).
_Layered = dict[str, tuple[np.ndarray, np.ndarray]]


def is_layered(name: str) -> bool:
  """Returns whether a metric is measured per layer."""
  return bool(_LAYER.fullmatch(name))


def charts_of(stage: stage_lib.Stage) -> html.Markup | None:
  """Returns gates, inner losses and other values per layer."""
  layered = _layered(stage)
  if not layered:
    if stage.config.get('diagnose_every') != 0:
      return None
    text = 'Gates and inner losses were not measured: diagnose_every is 0.'
    return _caption(text)
  gates = [name for name in layered if name.endswith('gate')]
  before = [name for name in layered if name.endswith('inner_loss_before')]
  rest = [
    name for name in layered if name not in gates and 'inner_loss' not in name
  ]
  show = lambda names: _grid(
    _by_layer(_title(name), *layered[name]) for name in names
  )
  parts = []
  if gates:
    text = (
      'Mean of |tanh| of a gate over its channels; 0 switches a direction off.'
    )
    parts += [tag('h3', 'Gates'), _caption(text), show(gates)]
  if before:
    text = (
      'Mean loss of the inner model on a mini-batch, before and after the'
      ' update with it.'
    )
    losses = _grid(_inner_losses(layered, before))
    parts += [tag('h3', 'Inner loss'), _caption(text), losses]
  if rest:
    parts.append(page.folded('Other diagnostics by layer', show(rest)))
  return join(*parts)


def _caption(text: str) -> html.Markup:
  return tag('p', text, class_='soft')


def _grid(figures: Iterable[html.Markup]) -> html.Markup:
  return tag('div', figures, class_='grid')


def _layered(stage: stage_lib.Stage) -> _Layered:
  """Returns the metrics per layer."""
  layers: dict[str, dict[int, str]] = {}
  for name in stage.names(_LAYER.pattern):
    match = _LAYER.fullmatch(name)
    assert match
    layers.setdefault(match[1], {})[int(match[2])] = name
  out = {}
  for base, names in layers.items():
    rows = [row for row in stage.rows if names[min(names)] in row]
    values = [
      [stage_lib.number(row.get(names[i])) for i in sorted(names)]
      for row in rows
    ]
    out[base] = np.array([row['step'] for row in rows]), np.array(values)
  return out


def _by_layer(title: str, steps: np.ndarray, values: np.ndarray) -> html.Markup:
  """Returns a line per layer, or a heat map of many layers."""
  count = values.shape[1]
  if count > _MOST_LINES:
    rows = [f'layer {i}' for i in range(count)]
    return charts.heat_map(title, steps.tolist(), rows, values.T)
  series = [
    charts.Series(f'layer {i}', np.stack([steps, values[:, i]], 1), colour)
    for i, colour in enumerate(charts.ramp(count))
  ]
  return charts.lines(title, series)


def _inner_losses(
  layered: _Layered, before: Sequence[str]
) -> list[html.Markup]:
  """Returns the means over the layers, and the changes by the update."""
  means, changes = [], []
  for name, colour in zip(before, itertools.cycle(charts.COLOURS)):
    direction = name.removesuffix('inner_loss_before').strip('_')
    direction = direction.replace('_', ' ')
    for suffix in ('before', 'after'):
      other = name.removesuffix('before') + suffix
      if other not in layered:
        continue
      steps, values = layered[other]
      points = np.stack([steps, values.mean(axis=1)], axis=1)
      label = f'{direction} {suffix}'.strip()
      means.append(charts.Series(label, points, colour, suffix == 'before'))
      first = layered[name][1]
      if suffix == 'after' and values.shape == first.shape:
        title = f'After minus before, {direction}'.rstrip(', ')
        changes.append(_by_layer(title, steps, values - first))
  return [charts.lines('Mean over the layers', means), *changes]


def _title(name: str) -> str:
  return name.replace('_', ' ').capitalize()
