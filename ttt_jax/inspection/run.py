"""The page of a training run: its stages, as far as they have come.

Everything is read from the files that the trainer writes while it runs, so a
page can be made at any moment, also of a run that was killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import datetime
import re
import time
from typing import Any
import warnings

from etils import epath
import numpy as np

from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.pages import charts
from ttt_jax.pages import html
from ttt_jax.pages import media
from ttt_jax.pages import page
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.train import metrics
from ttt_jax.train import timing
from ttt_jax.video import video_file

tag, join = html.tag, html.join

_SAMPLES = 'samples'
_LAYER = re.compile(r'(.+)/(\d\d+)')
_MOST_LINES = 8  # More layers become a heat map.
_MOST_STEPS = 10**12  # A larger number is damage.
_SILENCE = 180.0  # Seconds without a row, after which a run seems stopped.


@dataclasses.dataclass(frozen=True)
class Stage:
  """What is known of one stage.

  Attributes:
    folder: Folder of the stage.
    rows: Rows of its metrics.
    unread: Number of lines of the metrics from the first damaged one on.
    config: Config of the newest checkpoint; {} if there is none.
    saved: Steps of the checkpoints, newest first.
    is_done: Whether the stage reached its end; None if that is not recorded.
  """

  folder: epath.Path
  rows: Sequence[Mapping[str, Any]]
  unread: int
  config: Mapping[str, Any]
  saved: Sequence[int]
  is_done: bool | None

  @property
  def steps(self) -> int | None:
    """Number of steps of the config, if it is known."""
    steps = self.config.get('steps')
    return steps if isinstance(steps, int) and steps > 0 else None

  @property
  def step(self) -> int:
    """Last step that is recorded."""
    return max([row['step'] for row in self.rows[-1:]] + [*self.saved[:1], 0])

  def series(self, name: str) -> np.ndarray:
    """Returns steps and values [n, 2] of a metric."""
    found = [
      (row['step'], _number(row[name]))
      for row in self.rows
      if isinstance(row.get(name), int | float)
    ]
    return np.asarray(found, np.float64).reshape(-1, 2)

  def last(self, name: str) -> float | None:
    """Returns the last value of a metric."""
    points = self.series(name)
    return float(points[-1, 1]) if len(points) else None


def is_stage(folder: epath.Path) -> bool:
  """Returns whether a folder has the files of a stage."""
  return (folder / metrics.LOG).exists() or (
    folder / checkpoint_format.FOLDER
  ).exists()


def find_stages(folder: epath.Path) -> list[epath.Path]:
  """Returns the stages of a run: the folder, or folders in it, oldest first."""
  if is_stage(folder):
    return [folder]
  return sorted(
    (p for p in folder.iterdir() if p.is_dir() and is_stage(p)),
    key=lambda p: (_began(p), p.name),
  )


def _began(stage: epath.Path) -> float:
  rows = metrics.read(stage)
  began = _number(rows[0].get('time')) if rows else np.nan
  return began if np.isfinite(began) else np.inf


def read_stage(folder: epath.Path) -> Stage:
  """Reads a stage; damaged files count as missing."""
  rows = [r for r in metrics.read(folder) if abs(r['step']) < _MOST_STEPS]
  lines = 0
  if (folder / metrics.LOG).exists():
    lines = len((folder / metrics.LOG).read_bytes().splitlines())
  saved = checkpoint_format.steps(folder)
  config = {}
  if saved:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      try:
        config = checkpoint_format.newest_meta(folder)['config']
      except ValueError:
        pass
  is_done = None
  try:
    totals = files.parse_json((folder / timing.GOODPUT_FILE).read_text(), '')
    is_done = totals.get('done') if isinstance(totals, dict) else None
  except (OSError, ValueError):
    pass
  return Stage(folder, rows, lines - len(rows), config, saved, is_done)


def build(
  folder: epath.Path, stages: Sequence[epath.Path], budget: media.Budget
) -> str:
  """Returns the page of a run.

  Args:
    folder: Folder of the run or of a stage.
    stages: Folders of `find_stages`.
    budget: Bytes of media that may be embedded.
  """
  found = [read_stage(stage) for stage in stages]
  name = next((s.config['name'] for s in found if s.config.get('name')), '')
  title = f'{name}, {folder}' if name else str(folder)
  nav = None
  if len(found) > 1:
    nav = tag(
      'nav', (tag('a', s.folder.name, href=f'#{s.folder.name}') for s in found)
    )
  # The newest samples come first when the budget is spent.
  sections = [_stage(s, budget) for s in reversed(found)][::-1]
  others = _media(folder, '', budget) if found[0].folder != folder else None
  return page.page(
    f'Run {title}',
    tag('header', tag('h1', 'Run ', title), nav),
    sections,
    others and join(tag('h2', 'Files of the run'), others),
    page.made(),
    styles=['charts.css'],
    scripts=['charts.js'],
  )


def _stage(stage: Stage, budget: media.Budget) -> html.Markup:
  return tag(
    'section',
    tag('h2', f'Stage {stage.folder.name}'),
    page.note(
      f'{metrics.LOG} has {stage.unread} line'
      f'{"s that are" if stage.unread > 1 else " that is"} damaged or cut off'
      ' at its end, as after a kill; the page shows those before.'
    )
    if stage.unread
    else None,
    page.numbers(_summary(stage)),
    tag('h3', 'Loss'),
    tag('div', _losses(stage), class_='grid'),
    _diagnostics(stage),
    _samples(stage, budget),
    tag('h3', 'Speed'),
    tag('div', _speed(stage), class_='grid'),
    _other_metrics(stage),
    _config(stage),
    id=stage.folder.name,
  )


def _summary(stage: Stage) -> list[tuple[str, str, str]]:
  """Returns the numbers at the top of a stage."""
  now, rows = time.time(), stage.rows
  step, steps = stage.step, stage.steps
  age = now - _number(rows[-1].get('time')) if rows else np.nan
  is_done = stage.is_done or (steps is not None and step >= steps)
  if is_done:
    state, note = 'finished', ''
  elif not rows:
    state, note = 'no metrics yet', ''
  else:
    state = 'running' if age < _patience(rows) else 'stopped'
    note = f'last row {_duration(age)} ago'
  out = [('state', state, note)]
  share = f'{step / steps:.0%}' if steps else 'the config is not known yet'
  out.append(('step', f'{step:,}' + (f' of {steps:,}' if steps else ''), share))
  loss = stage.series('loss')
  if len(loss):
    smoothed = charts.smooth(loss)
    out.append(
      ('loss, smoothed', f'{smoothed[-1, 1]:.4g}', f'first {loss[0, 1]:.4g}')
    )
  speed = stage.series('time/step')
  if len(speed):
    seconds = float(np.median(speed[-20:, 1]))
    left = (steps - step) * seconds if steps and not is_done else 0
    out.append(
      (
        'seconds a step',
        f'{seconds:.3g}',
        f'{_duration(left)} left' if left else '',
      )
    )
  mfu = stage.last('speed/mfu')
  if mfu is not None:
    out.append(('MFU', f'{mfu:.1%}', ''))
  memory = stage.last('memory/peak_gib')
  if memory is not None:
    out.append(('peak memory', f'{memory:.3g} GiB', 'fullest chip'))
  starts = stage.last('goodput/starts')
  if starts is not None:
    lost = stage.last('goodput/lost_seconds') or 0
    note = f'{_duration(lost)} lost to restarts' if lost else ''
    out.append(('starts', f'{starts:.0f}', note))
  newest = f'newest {stage.saved[0]:,}' if stage.saved else ''
  out.append(('checkpoints', str(len(stage.saved) or 'none'), newest))
  return out


def _patience(rows: Sequence[Mapping[str, Any]]) -> float:
  """Returns the seconds without a row after which a run seems stopped."""
  times = [_number(row.get('time')) for row in rows[-20:]]
  pauses = np.diff(times)
  return max(_SILENCE, 5 * float(np.median(pauses)) if len(pauses) else 0.0)


def _losses(stage: Stage) -> list[html.Markup]:
  loss = stage.series('loss')
  bins = [metrics.timestep_bin(i) for i in range(metrics.TIMESTEP_BINS)]
  colours = charts.ramp(len(bins))
  norms = _names(stage, r'grad_norm(/.*)?')
  rates = _names(stage, r'lr/.*')
  palette = lambda names: [
    charts.Series(
      name, stage.series(name), charts.COLOURS[i % len(charts.COLOURS)]
    )
    for i, name in enumerate(names)
  ]
  return [
    charts.lines(
      'Loss',
      [
        charts.Series('', loss, is_faint=True),
        charts.Series('loss, smoothed', charts.smooth(loss)),
      ],
    ),
    charts.lines(
      'Loss by timestep, smoothed',
      [
        charts.Series(
          name.removeprefix('loss_t/'),
          charts.smooth(stage.series(name)),
          colour,
        )
        for name, colour in zip(bins, colours)
      ],
      'Timesteps from 0, a clean video, to 999, noise.',
    ),
    charts.lines('Norm of the gradient', palette(norms)),
    charts.lines('Learning rates', palette(rates)),
  ]


def _diagnostics(stage: Stage) -> html.Markup | None:
  """Returns gates, inner losses and other values per layer."""
  layered = _layered(stage)
  gates = [name for name in layered if name.endswith('gate')]
  before = [name for name in layered if name.endswith('inner_loss_before')]
  rest = [
    name for name in layered if name not in gates and 'inner_loss' not in name
  ]
  if not layered:
    every = stage.config.get('diagnose_every')
    if every == 0:
      return tag(
        'p',
        'Gates and inner losses were not measured: diagnose_every is 0.',
        class_='soft',
      )
    return None
  show = lambda names, caption='': [
    _by_layer(_title(name), layered[name], caption) for name in names
  ]
  losses = []
  if before:
    losses.append(_mean_inner_losses(layered, before))
    losses += _inner_losses_by_layer(layered, before)
  parts = []
  if gates:
    parts += [
      tag('h3', 'Gates'),
      tag(
        'p',
        'Mean of |tanh| of a gate over its channels; 0 switches a direction'
        ' off.',
        class_='soft',
      ),
      tag('div', show(gates), class_='grid'),
    ]
  if losses:
    parts += [
      tag('h3', 'Inner loss'),
      tag(
        'p',
        'Mean loss of the inner model on a mini-batch, before and after the'
        ' update with it.',
        class_='soft',
      ),
      tag('div', losses, class_='grid'),
    ]
  if rest:
    parts += [
      page.folded(
        'Other diagnostics by layer', tag('div', show(rest), class_='grid')
      )
    ]
  return join(*parts)


def _layered(stage: Stage) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns name -> (steps [n], values [n, layers]) of metrics per layer."""
  layers: dict[str, dict[int, str]] = {}
  for name in _names(stage, _LAYER.pattern):
    match = _LAYER.fullmatch(name)
    assert match
    layers.setdefault(match[1], {})[int(match[2])] = name
  out = {}
  for base, names in layers.items():
    rows = [row for row in stage.rows if names[min(names)] in row]
    values = [
      [_number(row.get(names[i])) for i in sorted(names)] for row in rows
    ]
    out[base] = np.array([row['step'] for row in rows]), np.array(values)
  return out


def _by_layer(
  title: str, found: tuple[np.ndarray, np.ndarray], caption: str = ''
) -> html.Markup:
  """Returns a line per layer, or a heat map of many layers."""
  steps, values = found
  count = values.shape[1]
  if count > _MOST_LINES:
    rows = [f'layer {i}' for i in range(count)]
    return charts.heat_map(title, steps.tolist(), rows, values.T, caption)
  series = [
    charts.Series(f'layer {i}', np.stack([steps, values[:, i]], 1), colour)
    for i, colour in enumerate(charts.ramp(count))
  ]
  return charts.lines(title, series, caption)


def _mean_inner_losses(layered, before: Sequence[str]) -> html.Markup:
  series = []
  for name, colour in zip(before, charts.COLOURS):
    direction = _direction(name)
    for suffix, is_dashed in (('before', True), ('after', False)):
      other = name.removesuffix('before') + suffix
      if other in layered:
        steps, values = layered[other]
        points = np.stack([steps, values.mean(axis=1)], axis=1)
        label = f'{direction} {suffix}'.strip()
        series.append(charts.Series(label, points, colour, is_dashed))
  return charts.lines('Mean over the layers', series)


def _inner_losses_by_layer(layered, before: Sequence[str]) -> list[html.Markup]:
  """Returns the change of the loss by the update, per direction."""
  out = []
  for name in before:
    other = name.removesuffix('before') + 'after'
    if other not in layered:
      continue
    (steps, first), (_, last) = layered[name], layered[other]
    if first.shape == last.shape:
      title = f'After minus before, {_direction(name)}'.rstrip(', ')
      out.append(_by_layer(title, (steps, last - first)))
  return out


def _direction(name: str) -> str:
  return name.removesuffix('inner_loss_before').strip('_').replace('_', ' ')


def _title(name: str) -> str:
  return name.replace('_', ' ').capitalize()


def _samples(stage: Stage, budget: media.Budget) -> html.Markup | None:
  shown = _media(stage.folder / _SAMPLES, f'{stage.folder.name}/', budget)
  others = _media(stage.folder, f'{stage.folder.name}/', budget)
  if not shown and not others:
    every = stage.config.get('sample_every')
    text = 'There are no samples yet.'
    if every == 0:
      text = 'There are no samples: sample_every is 0.'
    return tag('p', text, class_='soft')
  return join(tag('h3', 'Samples, newest first'), shown, others)


def _media(
  folder: epath.Path, prefix: str, budget: media.Budget
) -> html.Markup | None:
  """Returns the videos and pictures of a folder, newest first."""
  if not folder.exists() or not folder.is_dir():
    return None
  paths = [
    p
    for p in folder.iterdir()
    if p.suffix.lower() in (*media.VIDEOS, *media.PICTURES)
    and p.name != metrics.PLOT  # The charts show the same.
    and not p.name.startswith('.')
  ]
  if not paths:
    return None
  # Samples are named by their step, which a copy does not change.
  paths.sort(key=lambda p: (p.stem.isdecimal(), p.stem), reverse=True)
  before = len(budget.left_out)
  figures = []
  for path in paths:
    caption = path.name
    if path.stem.isdecimal():
      caption = f'step {int(path.stem):,}'
    if made := _how(path):
      caption = f'{caption}: {made}'
    figures.append(media.show(path, prefix + path.name, budget, caption))
  left_out = budget.left_out[before:]
  return join(
    page.note(
      f'{len(left_out)} of {len(paths)} files are not embedded, because the'
      f' page would become too large: {files.first_ten(left_out)}. A larger'
      ' --embed_mib embeds more.'
    )
    if left_out
    else None,
    tag('div', figures, class_='grid media'),
  )


def _how(path: epath.Path) -> str:
  """Returns how a video was sampled, as far as it says."""
  if path.suffix.lower() not in media.VIDEOS or paths.is_remote(path):
    return ''
  try:
    settings = video_file.read_settings(path)
  except (ValueError, OSError):
    return ''
  names = 'story', 'seed', 'steps', 'guidance', 'scheduler'
  return ', '.join(
    f'{settings[n]}' if n == 'story' else f'{n} {settings[n]}'
    for n in names
    if settings.get(n) is not None
  )


def _speed(stage: Stage) -> list[html.Markup]:
  step, share = stage.series('time/step'), stage.series('time/data_share')
  out = [
    charts.lines(
      'Seconds a step', [charts.Series('seconds', step)], _first_step(stage)
    ),
    charts.lines(
      'Share of the time that waits for data',
      [charts.Series('share', share, charts.COLOURS[1])],
    ),
  ]
  for name, title in (
    ('speed/tokens_per_second_per_chip', 'Tokens per second and chip'),
    ('speed/mfu', 'Model FLOPs utilization'),
    ('goodput/share', 'Goodput'),
  ):
    points = stage.series(name)
    if len(points) and not (
      name == 'goodput/share' and points[:, 1].min() == 1
    ):
      out.append(charts.lines(title, [charts.Series(title, points)]))
  return out


def _first_step(stage: Stage) -> str:
  first = stage.last('time/first_step')
  if first is None:
    return ''
  return f'The first step, which compiles, took {_duration(first)}.'


def _other_metrics(stage: Stage) -> html.Markup | None:
  """Returns charts of all metrics that have no place of their own."""
  known = re.compile(
    r'step|time|loss|loss_t/.*|grad_norm(/.*)?|lr/.*|time/.*|speed/.*'
    r'|goodput/.*'
  )
  names = [
    name
    for name in _names(stage, '.*')
    if not known.fullmatch(name) and not _LAYER.fullmatch(name)
  ]
  if not names:
    return None
  figures = [
    charts.lines(name, [charts.Series(name, stage.series(name))])
    for name in names
  ]
  return page.folded(
    'Other metrics', tag('div', figures, class_='grid'), class_='more'
  )


def _config(stage: Stage) -> html.Markup:
  if not stage.config:
    return tag(
      'p',
      'The config is saved with the first checkpoint, which does not exist'
      ' yet.',
      class_='soft',
    )
  rows = [
    (tag('code', name), tag('code', value))
    for name, value in _flat(stage.config)
  ]
  return page.folded(
    f'Config at step {stage.saved[0]:,}', page.table(['field', 'value'], rows)
  )


def _flat(value: Any, prefix: str = '') -> list[tuple[str, str]]:
  """Returns 'a.b' -> text of all fields of a config."""
  if isinstance(value, Mapping) and value:
    return [row for k, v in value.items() for row in _flat(v, f'{prefix}{k}.')]
  if isinstance(value, list) and any(isinstance(v, list | dict) for v in value):
    return [
      row for i, v in enumerate(value) for row in _flat(v, f'{prefix}{i}.')
    ]
  return [(prefix[:-1], repr(value) if isinstance(value, str) else str(value))]


def _names(stage: Stage, pattern: str) -> list[str]:
  """Returns the metrics whose names match, in order of appearance."""
  names = dict.fromkeys(name for row in stage.rows for name in row)
  return [name for name in names if re.fullmatch(pattern, name)]


def _number(value: Any) -> float:
  """Returns a JSON number as a float; NaN for other values."""
  try:
    return float(value) if isinstance(value, int | float) else np.nan
  except OverflowError:
    return np.nan


def _duration(seconds: float) -> str:
  """Returns '2 h 05 min', '3 min' or '12 s'."""
  if not np.isfinite(seconds):
    return 'unknown time'
  if seconds < 100:
    return f'{seconds:.0f} s'
  minutes = round(seconds / 60)
  if minutes < 100:
    return f'{minutes} min'
  if minutes < 48 * 60:
    return f'{minutes // 60} h {minutes % 60:02d} min'
  return f'{datetime.timedelta(minutes=minutes).days} days'
