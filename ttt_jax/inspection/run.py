"""The page of a training run: its stages, as far as they have come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import datetime
import re
import time
from typing import Any

from etils import epath
import numpy as np

from ttt_jax.inspection import layers
from ttt_jax.inspection import stage as stage_lib
from ttt_jax.pages import charts
from ttt_jax.pages import html
from ttt_jax.pages import media
from ttt_jax.pages import page
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.train import metrics
from ttt_jax.video import video_file

tag, join = html.tag, html.join

_SAMPLES = 'samples'
_SILENCE = 180.0  # Seconds without a row, after which a run seems stopped.


def build(
  folder: epath.Path, stages: Sequence[epath.Path], budget: media.Budget
) -> str:
  """Returns the page of a run.

  Args:
    folder: Folder of the run or of a stage.
    stages: Folders of `stage.find`.
    budget: Bytes of media that may be embedded.
  """
  found = [stage_lib.read(each) for each in stages]
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


def _stage(stage: stage_lib.Stage, budget: media.Budget) -> html.Markup:
  return tag(
    'section',
    tag('h2', f'Stage {stage.folder.name}'),
    page.note(
      f'{metrics.LOG} has {stage.unread} line'
      f'{"s that are" if stage.unread > 1 else " that is"} damaged or cut off'
      ' at its end, as after a kill; the page shows the earlier ones.'
    )
    if stage.unread
    else None,
    page.numbers(_summary(stage)),
    tag('h3', 'Loss'),
    tag('div', _losses(stage), class_='grid'),
    layers.charts_of(stage),
    _samples(stage, budget),
    tag('h3', 'Speed'),
    tag('div', _speed(stage), class_='grid'),
    _other_metrics(stage),
    _config(stage),
    id=stage.folder.name,
  )


def _summary(stage: stage_lib.Stage) -> list[tuple[str, str, str]]:
  """Returns the numbers at the top of a stage."""
  now, rows = time.time(), stage.rows
  step, steps = stage.step, stage.steps
  age = now - stage_lib.number(rows[-1].get('time')) if rows else np.nan
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
        'seconds per step',
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
  times = [stage_lib.number(row.get('time')) for row in rows[-20:]]
  pauses = np.diff(times)
  return max(_SILENCE, 5 * float(np.median(pauses)) if len(pauses) else 0.0)


def _losses(stage: stage_lib.Stage) -> list[html.Markup]:
  loss = stage.series('loss')
  bins = [metrics.timestep_bin(i) for i in range(metrics.TIMESTEP_BINS)]
  colours = charts.ramp(len(bins))
  norms = stage.names(r'grad_norm(/.*)?')
  rates = stage.names(r'lr/.*')
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


def _samples(
  stage: stage_lib.Stage, budget: media.Budget
) -> html.Markup | None:
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
  """Returns the settings of a video's sampling, as far as it contains them."""
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


def _speed(stage: stage_lib.Stage) -> list[html.Markup]:
  step, share = stage.series('time/step'), stage.series('time/data_share')
  out = [
    charts.lines(
      'Seconds per step', [charts.Series('seconds', step)], _first_step(stage)
    ),
    charts.lines(
      'Share of the time spent waiting for data',
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


def _first_step(stage: stage_lib.Stage) -> str:
  first = stage.last('time/first_step')
  if first is None:
    return ''
  return f'The first step, which compiles, took {_duration(first)}.'


def _other_metrics(stage: stage_lib.Stage) -> html.Markup | None:
  """Returns charts of all metrics that have no place of their own."""
  known = re.compile(
    r'step|time|loss|loss_t/.*|grad_norm(/.*)?|lr/.*|time/.*|speed/.*'
    r'|goodput/.*'
  )
  names = [
    name
    for name in stage.names('.*')
    if not known.fullmatch(name) and not layers.is_layered(name)
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


def _config(stage: stage_lib.Stage) -> html.Markup:
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
