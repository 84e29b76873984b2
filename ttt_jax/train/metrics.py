"""Curves of a run: TensorBoard events, metrics.jsonl and a plot.

A run that starts again at step n forgets what was logged after n, so that no
step is in a curve twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import tempfile
import time
from typing import Any

from etils import epath
import jax
import numpy as np
import tensorboardX

from ttt_jax.runtime import disk
from ttt_jax.runtime import paths
from ttt_jax.train import timing

LOG = 'metrics.jsonl'
PLOT = 'losses.png'
# Timesteps 0 (clean) to 999 (noise) in this many equal parts.
BUCKETS = 10
# Metrics that the step returns as sums, one entry a bucket.
SUM, COUNT = 'bucket_loss_sum', 'bucket_count'
_COPY_SECONDS = 60.0


def bucket_name(index: int) -> str:
  """Metric name of a timestep bucket, for example loss_t/000-099."""
  width = 1000 // BUCKETS
  return f'loss_t/{index * width:03d}-{(index + 1) * width - 1:03d}'


class Window:
  """Metrics of the steps since the last log line, on the host."""

  def __init__(self):
    self._steps: list[Mapping[str, np.ndarray]] = []

  def add(self, metrics: Mapping[str, Any]) -> None:
    """Adds the metrics of one step: scalars and the bucket sums."""
    self._steps.append(metrics)

  def drain(self) -> dict[str, float]:
    """Means over the steps; buckets without a sample are left out."""
    steps, self._steps = self._steps, []
    if not steps:
      return {}
    scalars = {
      k: float(np.mean([m[k] for m in steps]))
      for k in steps[-1]
      if k not in (SUM, COUNT)
    }
    sums = np.sum([m[SUM] for m in steps], axis=0)
    counts = np.sum([m[COUNT] for m in steps], axis=0)
    buckets = {
      bucket_name(i): float(sums[i] / counts[i]) for i in np.flatnonzero(counts)
    }
    return scalars | buckets


class Writer:
  """Writes the metrics of one stage folder; only the first host writes.

  Files in a bucket cannot grow: for one they grow in a local folder, which is
  copied there with every plot and every minute.
  """

  def __init__(
    self, folder: str | os.PathLike[str], step: int, active: bool = True
  ):
    """Continues the curves of `folder` after `step`."""
    self._bucket, self._active = epath.Path(folder), active
    if not active:
      return
    self._folder = pathlib.Path(folder)
    if paths.in_bucket(folder):
      self._folder = pathlib.Path(tempfile.mkdtemp())
    self._folder.mkdir(parents=True, exist_ok=True)
    kept = [row for row in read(folder) if row['step'] <= step]
    # Replaced whole: a kill in between leaves the old file or the new one.
    draft = self._folder / (LOG + '.tmp')
    draft.write_text(''.join(json.dumps(row) + '\n' for row in kept))
    os.replace(draft, self._folder / LOG)
    self._log = open(self._folder / LOG, 'a', encoding='utf-8')
    self._events = tensorboardX.SummaryWriter(
      str(self._folder),
      purge_step=step + 1,
      flush_secs=10,
      filename_suffix=f'.{step}',
    )
    self._copied = time.monotonic()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Logs scalars after `step` updates."""
    if not self._active or not values:
      return
    row = dict(step=step, time=round(time.time(), 3), **values)
    self._log.write(json.dumps(row) + '\n')
    self._log.flush()
    for name, value in values.items():
      self._events.add_scalar(name, value, step)
    if time.monotonic() - self._copied > _COPY_SECONDS:
      self._copy()

  def plot(self) -> None:
    """Draws losses.png from all rows so far."""
    if self._active:
      plot(self._folder)
      self._copy()

  def _copy(self) -> None:
    with disk.may_wait(self._bucket):
      disk.mirror(self._folder, self._bucket)
    self._copied = time.monotonic()

  def __enter__(self) -> Writer:
    return self

  def __exit__(self, *_) -> None:
    if self._active:
      self._log.close()
      self._events.close()
      self._copy()


def scalars(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Diagnostics as scalars: an array gives one an entry of its first axis."""
  found = {}
  for name, value in arrays.items():
    value = np.asarray(value)
    if value.ndim == 0:
      found[name] = float(value)
    else:
      means = value.reshape(len(value), -1).mean(axis=1)
      found |= {f'{name}/{i:02d}': float(x) for i, x in enumerate(means)}
  return found


def read(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Rows of metrics.jsonl; a last line cut off by a kill is left out."""
  rows = []
  path = epath.Path(folder) / LOG
  if path.exists():
    for line in path.read_text(encoding='utf-8').splitlines():
      try:
        rows.append(json.loads(line))
      except json.JSONDecodeError:
        break
  return rows


def curve(rows: list[dict[str, Any]], name: str) -> np.ndarray:
  """[n, 2] steps and values of one metric."""
  points = [(row['step'], row[name]) for row in rows if name in row]
  return np.asarray(points, np.float64).reshape(-1, 2)


def _smooth(values: np.ndarray, decay: float = 0.9) -> np.ndarray:
  out, mean, weight = [], 0.0, 0.0
  for value in values:
    mean = decay * mean + (1 - decay) * value
    weight = decay * weight + (1 - decay)
    out.append(mean / weight)
  return np.asarray(out)


def plot(folder: pathlib.Path) -> None:
  """Draws `folder`/losses.png: the loss, and the loss by timestep."""
  # Figure and canvas without pyplot: no global state, no display.
  import matplotlib
  from matplotlib import figure
  from matplotlib.backends import backend_agg

  rows = read(folder)
  fig = figure.Figure(figsize=(10, 4), layout='constrained')
  backend_agg.FigureCanvasAgg(fig)
  left, right = fig.subplots(1, 2)
  loss = curve(rows, 'loss')
  if len(loss):
    left.plot(loss[:, 0], loss[:, 1], color='0.8', linewidth=0.8)
    left.plot(loss[:, 0], _smooth(loss[:, 1]), color='C0')
  left.set(title='loss', xlabel='step')
  colours = matplotlib.colormaps['viridis'](np.linspace(0, 0.9, BUCKETS))
  for i, colour in enumerate(colours):
    points = curve(rows, bucket_name(i))
    if len(points):
      label = bucket_name(i).removeprefix('loss_t/')
      right.plot(points[:, 0], _smooth(points[:, 1]), color=colour, label=label)
  right.set(title='loss by timestep (smoothed)', xlabel='step')
  if right.lines:
    right.legend(fontsize='x-small', ncols=2)
  for axes in (left, right):
    values = [v for line in axes.lines for v in line.get_ydata()]
    if values and min(values) > 0:
      axes.set_yscale('log')
    axes.grid(alpha=0.3)
  draft = folder / (PLOT + '.tmp')
  fig.savefig(draft, format='png', dpi=110)
  os.replace(draft, folder / PLOT)


class Monitor:
  """Reads metrics one step late, so that the device never waits for us."""

  def __init__(
    self,
    writer: Writer,
    clock: timing.Clock,
    goodput: timing.Goodput,
    names: Sequence[str],
    config: Any,
  ):
    """`names`: of clips; `config` says `log_every` and the last of `steps`."""
    self._writer, self._clock, self._goodput = writer, clock, goodput
    self._names = names
    self._log_every, self._steps = config.log_every, config.steps
    self._speed = ''
    self._window, self._pending = Window(), None
    self._extra: dict[str, float] = {}
    self.note = ''

  def extra(self, values: dict[str, float]) -> None:
    """Adds values to the next row: that of the step pushed last, or later."""
    self._extra |= values

  def push(self, step: int, metrics: Any, clips: np.ndarray) -> None:
    """Takes the metrics of `step` and looks at those of the step before."""
    pending, self._pending = self._pending, (step, metrics, clips)
    self._look(pending)

  def flush(self) -> None:
    """Looks at everything pushed so far."""
    pending, self._pending = self._pending, None
    self._look(pending)

  def _look(self, pending: tuple[int, Any, np.ndarray] | None) -> None:
    if pending is None:
      return
    step, metrics, clips = pending
    metrics = jax.device_get(metrics)
    bad = [k for k in ('loss', 'grad_norm') if not np.isfinite(metrics[k])]
    if bad:
      names = ', '.join(sorted({self._names[i] for i in clips}))
      raise ValueError(
        f'{bad[0]} is {metrics[bad[0]]} in step {step}, batch of clips'
        f' {names}; nothing of it was saved. A smaller'
        ' config.optimizer learning rate or clip, or without these clips'
      )
    self._window.add(metrics)
    self._goodput.finished(step)
    if step % self._log_every == 0 or step == self._steps:
      speed = self._clock.row()
      self._speed = timing.note(speed) or self._speed
      row = self._window.drain() | self._extra | speed | self._goodput.row()
      self._writer.write(step, row)
      self._extra = {}
    self.note = f'loss {metrics["loss"]:.4f} {self._speed}'.rstrip()
