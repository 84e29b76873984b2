"""Metrics of a run: TensorBoard events, metrics.jsonl and a plot.

A run that resumes from step n discards the rows after n, so each step appears
at most once.
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
import msgspec
import numpy as np
import tensorboardX

from ttt_jax.runtime import disk
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.train import timing

LOG = 'metrics.jsonl'
PLOT = 'losses.png'
# Bins of equal width for the timesteps 0 (clean) to 999 (noise).
TIMESTEP_BINS = 10
# Metrics that the step returns as sums, one entry per bin.
LOSS_SUM, LOSS_COUNT = 'bucket_loss_sum', 'bucket_count'
_COPY_INTERVAL = 60.0  # seconds


class _Row(msgspec.Struct):
  step: int


def timestep_bin(index: int) -> str:
  """Returns the metric name of a timestep bin, for example loss_t/000-099."""
  width = 1000 // TIMESTEP_BINS
  return f'loss_t/{index * width:03d}-{(index + 1) * width - 1:03d}'


class MetricAccumulator:
  """Collects metrics of the steps since the last row, on the host."""

  def __init__(self):
    self._steps: list[Mapping[str, np.ndarray]] = []

  def add(self, metrics: Mapping[str, Any]) -> None:
    """Adds the metrics of one step: scalars and the sums of the bins."""
    self._steps.append(metrics)

  def pop_means(self) -> dict[str, float]:
    """Returns means over the steps and clears them; empty bins are omitted."""
    steps, self._steps = self._steps, []
    if not steps:
      return {}
    scalars = {
      k: float(np.mean([m[k] for m in steps]))
      for k in steps[-1]
      if k not in (LOSS_SUM, LOSS_COUNT)
    }
    sums = np.sum([m[LOSS_SUM] for m in steps], axis=0)
    counts = np.sum([m[LOSS_COUNT] for m in steps], axis=0)
    bins = {
      timestep_bin(int(i)): float(sums[i] / counts[i])
      for i in np.flatnonzero(counts)
    }
    return scalars | bins


class Writer:
  """Writes the metrics of one stage folder.

  Objects in a bucket cannot be appended to. The files of such a stage are
  written to a local folder, which is copied every minute and with every plot.
  """

  def __init__(
    self, folder: str | os.PathLike[str], step: int, active: bool = True
  ):
    """Opens the files.

    Args:
      folder: Folder of the stage.
      step: Step from which the run resumes; later rows are removed.
      active: Whether this process writes; one process does.
    """
    self._target, self._active = epath.Path(folder), active
    if not active:
      return
    self._folder = pathlib.Path(folder)
    if paths.is_remote(folder):
      self._folder = pathlib.Path(tempfile.mkdtemp())
    self._folder.mkdir(parents=True, exist_ok=True)
    kept = [row for row in read(folder) if row['step'] <= step]
    with files.atomic_write(self._folder / LOG) as temporary:
      temporary.write_text(''.join(json.dumps(row) + '\n' for row in kept))
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
    if time.monotonic() - self._copied > _COPY_INTERVAL:
      self._copy()

  def plot(self) -> None:
    """Draws losses.png from all rows so far."""
    if self._active:
      plot(self._folder)
      self._copy()

  def _copy(self) -> None:
    with disk.tolerate_bucket_errors(self._target):
      disk.copy_to(self._folder, self._target)
    self._copied = time.monotonic()

  def __enter__(self) -> Writer:
    return self

  def __exit__(self, *_) -> None:
    if self._active:
      self._log.close()
      self._events.close()
      self._copy()


def scalars(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Reduces each diagnostic to a scalar, or to one per entry of its axis 0."""
  reduced = {}
  for name, value in arrays.items():
    value = np.asarray(value)
    if value.ndim == 0:
      reduced[name] = float(value)
    else:
      means = value.reshape(len(value), -1).mean(axis=1)
      reduced |= {f'{name}/{i:02d}': float(x) for i, x in enumerate(means)}
  return reduced


def read(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Returns the rows of metrics.jsonl up to a damaged or truncated line."""
  rows = []
  path = epath.Path(folder) / LOG
  if path.exists():
    for line in path.read_bytes().splitlines():
      try:
        row = json.loads(line)
        msgspec.convert(row, _Row)
      except (ValueError, RecursionError, msgspec.ValidationError):
        break
      rows.append(row)
  return rows


def extract_series(rows: list[dict[str, Any]], name: str) -> np.ndarray:
  """Returns steps and values [n, 2] of one metric."""
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
  loss = extract_series(rows, 'loss')
  if len(loss):
    left.plot(loss[:, 0], loss[:, 1], color='0.8', linewidth=0.8)
    left.plot(loss[:, 0], _smooth(loss[:, 1]), color='C0')
  left.set(title='loss', xlabel='step')
  colours = matplotlib.colormaps['viridis'](np.linspace(0, 0.9, TIMESTEP_BINS))
  for i, colour in enumerate(colours):
    points = extract_series(rows, timestep_bin(i))
    if len(points):
      label = timestep_bin(i).removeprefix('loss_t/')
      right.plot(points[:, 0], _smooth(points[:, 1]), color=colour, label=label)
  right.set(title='loss by timestep (smoothed)', xlabel='step')
  if right.lines:
    right.legend(fontsize='x-small', ncols=2)
  for axes in (left, right):
    values = [v for line in axes.lines for v in line.get_ydata()]
    if values and min(values) > 0:
      axes.set_yscale('log')
    axes.grid(alpha=0.3)
  with files.atomic_write(folder / PLOT) as temporary:
    fig.savefig(temporary, format='png', dpi=110)


class MetricsReader:
  """Reads metrics one step late, so that the device never waits for the host.

  Attributes:
    note: Text for the progress bar: the loss and the speed.
  """

  def __init__(
    self,
    writer: Writer,
    timer: timing.StepTimer,
    goodput: timing.Goodput,
    names: Sequence[str],
    config: Any,
  ):
    """Connects the parts.

    Args:
      writer: Destination of the rows.
      timer: Timer of the steps.
      goodput: Losses by restarts.
      names: Names of the clips, by the clip index of a batch.
      config: Config with `log_every` and `steps`.
    """
    self._writer, self._timer, self._goodput = writer, timer, goodput
    self._names = names
    self._log_every, self._steps = config.log_every, config.steps
    self._speed = ''
    self._accumulator = MetricAccumulator()
    self._pending: tuple[int, Any, np.ndarray] | None = None
    self._extra: dict[str, float] = {}
    self.note = ''

  def extra(self, values: dict[str, float]) -> None:
    """Adds values to the next row."""
    self._extra |= values

  def push(self, step: int, metrics: Any, clips: np.ndarray) -> None:
    """Stores the metrics of `step` and reads those of the previous step."""
    pending, self._pending = self._pending, (step, metrics, clips)
    self._read(pending)

  def flush(self) -> None:
    """Reads everything pushed so far."""
    pending, self._pending = self._pending, None
    self._read(pending)

  def _read(self, pending: tuple[int, Any, np.ndarray] | None) -> None:
    if pending is None:
      return
    step, metrics, clips = pending
    metrics = jax.device_get(metrics)
    bad = [k for k in ('loss', 'grad_norm') if not np.isfinite(metrics[k])]
    if bad:
      names = ', '.join(sorted({self._names[i] for i in clips}))
      raise ValueError(
        f'{bad[0]} is {metrics[bad[0]]} in step {step}, batch of clips'
        f' {names}; the step was not saved. Reduce a learning rate or clip in'
        ' config.optimizer, or remove these clips'
      )
    self._accumulator.add(metrics)
    self._goodput.finished(step)
    if step % self._log_every == 0 or step == self._steps:
      speed = self._timer.summary()
      self._speed = timing.format_summary(speed) or self._speed
      row = (
        self._accumulator.pop_means()
        | self._extra
        | speed
        | self._goodput.summary()
      )
      self._writer.write(step, row)
      self._extra = {}
    self.note = f'loss {metrics["loss"]:.4f} {self._speed}'.rstrip()
