"""Line charts and heat maps as SVG, with the values next to the pointer.

A page with charts needs 'charts.css' and 'charts.js'. The SVG is about as wide
as its place in a page, so that its texts are readable on a phone.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
import dataclasses
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from ttt_jax.pages import html

tag = html.tag

_WIDTH, _HEIGHT = 400, 230
_AREA = (52, 8, 392, 200)  # left, top, right, bottom
_MOST_POINTS = 300  # per line
_MOST_COLUMNS = 100  # of a heat map
_LOG_RATIO = 8  # A wider range of positive values has a logarithmic axis.

COLOURS = (
  *('#3b82f6', '#ef6c4d', '#17a673', '#a66bea'),
  *('#d39b00', '#0ea5b7', '#d6588f', '#7f8b9c'),
)


@dataclasses.dataclass(frozen=True)
class Series:
  """A line of a chart.

  Attributes:
    name: Name in the legend; '' for a line without an entry.
    points: Steps and values [n, 2], in order of the steps.
    colour: CSS colour.
    is_dashed: Whether the line is dashed.
    is_faint: Whether the line is in the background.
  """

  name: str
  points: np.ndarray
  colour: str = COLOURS[0]
  is_dashed: bool = False
  is_faint: bool = False


def ramp(count: int) -> list[str]:
  """Returns ordered colours, readable on white and on black."""
  shares = [i / max(1, count - 1) for i in range(count)]
  return [f'hsl({225 + 165 * s:.0f} 72% 58%)' for s in shares]


def smooth(points: np.ndarray, decay: float = 0.9) -> np.ndarray:
  """Returns points [n, 2] with an exponential mean of the values."""
  out, mean, weight = np.array(points, np.float64), 0.0, 0.0
  for row in out:
    if math.isfinite(row[1]):
      mean = decay * mean + (1 - decay) * row[1]
      weight = decay * weight + (1 - decay)
    if weight:
      row[1] = mean / weight
  return out


def thin(points: np.ndarray, most: int = _MOST_POINTS) -> np.ndarray:
  """Returns at most that many points: means of consecutive ones."""
  if len(points) <= most:
    return points
  return np.stack([part.mean(axis=0) for part in np.array_split(points, most)])


def lines(
  title: str,
  series: Sequence[Series],
  caption: str = '',
  x_name: str = 'step',
  *,
  is_log_x: bool = False,
  marks: Sequence[float] = (),
) -> html.Markup:
  """Returns a chart of lines over steps.

  Args:
    title: Title.
    series: Lines; values that are not finite are gaps.
    caption: Text below the chart.
    x_name: Name of the horizontal axis.
    is_log_x: Whether the horizontal axis is logarithmic; its values are
      positive.
    marks: Places of vertical lines.
  """
  series = [
    dataclasses.replace(s, points=thin(s.points))
    for s in series
    if len(s.points)
  ]
  every = np.concatenate([s.points for s in series] or [np.zeros((0, 2))])
  every = every[np.isfinite(every).all(axis=1)]
  if not len(every):
    return _empty(title, caption)
  scale_x = np.log10 if is_log_x else np.asarray
  x_range = _widen(*map(float, scale_x([every[:, 0].min(), every[:, 0].max()])))
  low, high = every[:, 1].min(), every[:, 1].max()
  is_log = low > 0 and high / low > _LOG_RATIO
  scale = np.log10 if is_log else np.asarray
  y_range = _widen(*map(float, scale([low, high])), margin=0.04)
  left, top, right, bottom = _AREA

  def place(x, y):
    return (
      left
      + (float(scale_x(x)) - x_range[0])
      / (x_range[1] - x_range[0])
      * (right - left),
      bottom - (y - y_range[0]) / (y_range[1] - y_range[0]) * (bottom - top),
    )

  parts: list[Any] = []
  ticks = _ticks(low, high, True) if is_log else _ticks(*y_range, False)
  for value, label in zip(ticks, _labels(ticks)):
    y = place(1, float(scale(value)))[1]
    if top <= y <= bottom:
      parts += [
        tag('line', class_='tick', x1=left, x2=right, y1=_r(y), y2=_r(y)),
        tag('text', label, x=left - 5, y=_r(y + 4), text_anchor='end'),
      ]
  parts += _x_axis(x_range, x_name, is_log_x)
  for mark in marks:
    x = _r(place(mark, 0)[0])
    parts.append(tag('line', class_='mark', x1=x, x2=x, y1=top, y2=bottom))
  for s in sorted(series, key=lambda s: not s.is_faint):
    path, is_new = [], True
    for x, y in s.points:
      is_shown = math.isfinite(y) and not (is_log and y <= 0)
      if is_shown:
        px, py = place(x, float(scale(y)))
        path.append(f'{"M" if is_new else "L"}{_r(px)} {_r(py)}')
      is_new = not is_shown
    is_point = len(path) == 1
    if is_point:  # A round end is drawn where there is some length.
      path.append('h.01')
    parts.append(
      tag(
        'path',
        class_='series faint' if s.is_faint else 'series',
        d=''.join(path),
        stroke=s.colour,
        stroke_dasharray='4 3' if s.is_dashed else None,
        stroke_linecap='round',
        style='stroke-width:6' if is_point else None,
      )
    )
  named = [s for s in series if s.name]
  legend = tag(
    'ul',
    (
      tag(
        'li',
        s.name,
        style=f'--c:{s.colour}',
        class_='dashed' if s.is_dashed else None,
      )
      for s in named
    ),
  )
  values = dict(
    area=_AREA,
    domain=x_range,
    x_name=x_name,
    is_log_x=is_log_x,
    series=[
      dict(
        name=s.name,
        x=[_significant(x) for x in s.points[:, 0]],
        y=[_significant(y) for y in s.points[:, 1]],
      )
      for s in named
    ],
  )
  content = _svg(title, parts, values), legend if len(named) > 1 else None
  return _figure(title, content, caption)


def heat_map(
  title: str,
  steps: Sequence[float],
  rows: Sequence[str],
  values: np.ndarray,
  caption: str = '',
) -> html.Markup:
  """Returns a map of values over steps, a row each.

  Args:
    title: Title.
    steps: Steps, one per column.
    rows: Names of the rows, from the top.
    values: Values [rows, steps].
    caption: Text below the chart.
  """
  groups = np.array_split(np.arange(len(steps)), min(len(steps), _MOST_COLUMNS))
  values = np.stack([values[:, g].mean(axis=1) for g in groups], axis=1)
  steps = [float(np.asarray(steps)[g].mean()) for g in groups]
  finite = values[np.isfinite(values)]
  if not finite.size:
    return _empty(title, caption)
  low, high = float(finite.min()), float(finite.max())
  shares = (np.nan_to_num(values, nan=low) - low) / ((high - low) or 1)
  pixels = _map_colours(np.clip(shares, 0, 1))
  pixels[~np.isfinite(values)] = 128
  png = io.BytesIO()
  Image.fromarray(pixels).save(png, 'PNG')
  left, top, right, bottom = _AREA
  parts = [
    tag(
      'image',
      href='data:image/png;base64,' + base64.b64encode(png.getvalue()).decode(),
      x=left,
      y=top,
      width=right - left,
      height=bottom - top,
      preserveAspectRatio='none',
      style='image-rendering:pixelated',
    )
  ]
  height = (bottom - top) / len(rows)
  every = math.ceil(13 / height)
  parts += [
    tag(
      'text',
      name,
      x=left - 5,
      y=_r(top + (i + 0.5) * height + 4),
      text_anchor='end',
    )
    for i, name in enumerate(rows)
    if i % every == 0
  ]
  half = (steps[-1] - steps[0]) / max(1, len(steps) - 1) / 2 or 0.5
  parts += _x_axis((steps[0] - half, steps[-1] + half), 'step')
  bar = tag(
    'p',
    f'{_short(low)} ',
    tag('span', class_='bar', style=f'background:{_GRADIENT}'),
    f' {_short(high)}',
    class_='range',
  )
  chart = dict(
    area=_AREA,
    map=dict(
      x=[_significant(x) for x in steps],
      rows=list(rows),
      values=[[_significant(v) for v in row] for row in values],
    ),
  )
  return _figure(title, (_svg(title, parts, chart), bar), caption)


# Dark blue to yellow, without black and white, which a page may have.
_STOPS = np.array(
  [
    (33, 60, 140),
    (62, 120, 170),
    (86, 175, 150),
    (190, 205, 90),
    (250, 220, 60),
  ]
)
_GRADIENT = (
  'linear-gradient(90deg,'
  + ','.join(f'rgb({r} {g} {b})' for r, g, b in _STOPS.tolist())
  + ')'
)


def _map_colours(shares: np.ndarray) -> np.ndarray:
  """Returns uint8 [..., 3] for shares in [0, 1]."""
  at = np.linspace(0, 1, len(_STOPS))
  channels = [np.interp(shares, at, _STOPS[:, c]) for c in range(3)]
  return np.stack(channels, axis=-1).round().astype(np.uint8)


def _figure(
  title: str, content: Any, caption: str, kind: str | None = 'chart'
) -> html.Markup:
  return tag(
    'figure',
    tag('h4', title),
    content,
    tag('figcaption', caption) if caption else None,
    class_=kind,
  )


def _empty(title: str, caption: str) -> html.Markup:
  text = tag('p', 'no values yet', class_='soft')
  return _figure(title, text, caption, kind=None)


def _svg(title: str, parts: Sequence[Any], values: Any) -> html.Markup:
  left, top, right, bottom = _AREA
  return html.join(
    tag(
      'svg',
      parts,
      tag(
        'rect',
        class_='frame',
        x=left,
        y=top,
        width=right - left,
        height=bottom - top,
      ),
      tag('line', class_='cursor', x1=0, x2=0, y1=top, y2=bottom),
      viewBox=f'0 0 {_WIDTH} {_HEIGHT}',
      role='img',
      aria_label=title,
    ),
    tag('div', class_='values'),
    html.data(values),
  )


def _x_axis(
  x_range: tuple[float, float], name: str, is_log: bool = False
) -> list[html.Markup]:
  left, _, right, bottom = _AREA
  parts = [tag('text', name, x=left - 5, y=bottom + 16, text_anchor='end')]
  ends = np.power(10.0, x_range) if is_log else x_range
  ticks = _ticks(float(ends[0]), float(ends[1]), is_log)
  for value, label in zip(ticks, _labels(ticks)):
    at = math.log10(value) if is_log else value
    share = (at - x_range[0]) / (x_range[1] - x_range[0])
    if 0.04 <= share <= 1:  # The name of the axis is at its beginning.
      parts.append(
        tag(
          'text',
          label,
          x=_r(left + share * (right - left)),
          y=bottom + 16,
          text_anchor='end' if share > 0.95 else 'middle',
        )
      )
  return parts


def _ticks(low: float, high: float, is_log: bool) -> Sequence[float]:
  from matplotlib import ticker  # Slow to import.

  if is_log:
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 4 else (1.0, 2.0, 5.0)
    return ticker.LogLocator(subs=subs, numticks=12).tick_values(low, high)
  return ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)


def _widen(low: float, high: float, margin: float = 0) -> tuple[float, float]:
  low, high = float(low), float(high)
  if low == high:
    half = abs(low) * 0.1 or 0.5
    return low - half, high + half
  return low - margin * (high - low), high + margin * (high - low)


def _labels(values: Sequence[float]) -> list[str]:
  """Returns numbers for an axis, with as many digits as make them differ."""
  labels: list[str] = []
  for digits in range(3, 8):
    labels = [_short(value, digits) for value in values]
    if len(set(labels)) == len(labels):
      break
  return labels


def _short(value: float, digits: int = 3) -> str:
  """Returns a number for an axis, '12k' for 12,000."""
  for limit, factor, unit in (
    (1e9, 1e9, 'G'),
    (1e6, 1e6, 'M'),
    (1e4, 1e3, 'k'),
  ):
    if abs(value) >= limit:
      return f'{value / factor:.{digits + 1}g}{unit}'
  # Thousands are not rounded to three digits.
  return f'{value:.{max(digits, 4 if abs(value) >= 1000 else 0)}g}'


def _significant(value: float) -> float | None:
  value = float(value)
  return float(f'{value:.5g}') if math.isfinite(value) else None


def _r(value: float) -> str:
  return f'{value:.1f}'
