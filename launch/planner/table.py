"""Plans of all stages as one table, and a check against a budget.

    python -m launch.planner.table --page=docs/plan.md [--rows=3s,"63s sample"]
    python -m launch.planner.table --check           # the most important rows
    python -m launch.planner.table --check --write   # replaces the budget

Every row is a process of `launch.plan`, run one after another. Compiled
programs are kept in `--cache`, so an interrupted run continues where it was
stopped; a changed program is compiled again. The results are also written as
JSON next to the table, where rows outside of `--rows` stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

from absl import flags

from launch import commands
from ttt_jax.runtime import cli
from ttt_jax.runtime import files

BUDGET = pathlib.Path(__file__).parent / 'plan_budget.json'
_GIB = 2**30
# Allowed growth of a peak: the compiler's choices change it a little.
_GROWTH = 1.02


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of the table.

  Attributes:
    stage: stage of configs/ttt_video.py.
    mode: 'train' or 'sample'.
    topology: name of the slice.
    mesh: mesh, as on a command line.
    microbatches: microbatches per training step.
    remat: remat policy of a training step.
    checked: whether `--check` compiles it.
    mixer: mixer; '' is the recipe's.
  """

  stage: str
  mode: str
  topology: str
  mesh: str
  microbatches: int = 1
  remat: str = 'layer'
  checked: bool = False
  mixer: str = ''

  @property
  def name(self) -> str:
    """Name, unique in the table."""
    remat = '' if self.remat == 'layer' else f' {self.remat}'
    mixer = self.mixer and f' {self.mixer}'
    return f'{self.stage} {self.mode} {self.topology}{remat}{mixer}'

  def command(self, cache: str, path: pathlib.Path) -> list[str]:
    """Returns the command that writes the plan's results to `path`."""
    return [
      sys.executable,
      '-m',
      'launch.plan',
      f'--config=configs/ttt_video.py:{self.stage}'
      + (self.mixer and f',{self.mixer}'),
      f'--mode={self.mode}',
      f'--topology={self.topology}',
      f'--mesh={self.mesh}',
      f'--config.microbatches={self.microbatches}',
      f'--config.model.remat={self.remat}',
      f'--cache={cache}',
      f'--out={path}',
    ]


_V5P = dict(topology='v5p:8x8x4', mesh='data:64,sp:4')
ROWS = (
  Row('3s', 'train', **_V5P, remat='attention'),
  Row('9s', 'train', **_V5P, remat='attention'),
  Row('18s', 'train', **_V5P, remat='attention'),
  Row('30s', 'train', **_V5P, remat='attention'),
  Row('63s', 'train', **_V5P),
  Row('63s', 'train', **_V5P, remat='attention', checked=True),
  Row('63s', 'train', **_V5P, remat='offload', checked=True),
  Row(
    '63s',
    'train',
    topology='v6e:16x16',
    mesh='data:64,sp:4',
    remat='offload_attention',
  ),
  Row(
    '63s',
    'train',
    topology='v5e:16x16',
    mesh='data:16,sp:16',
    microbatches=4,
    remat='offload',
    checked=True,
  ),
  Row('63s', 'train', 'tpu7x:4x4x8', 'data:64,sp:4', remat='attention'),
  Row('63s', 'sample', 'v5p:4x4x2', 'data:2,sp:16', checked=True),
  Row('63s', 'sample', 'v5e:4x4', 'data:2,sp:8'),
)


class DoesNotFitError(ValueError):
  """A row does not fit the chips' memory."""


def plan(row: Row, cache: str) -> dict[str, Any]:
  """Returns the results of a row; prints its output only if it fails.

  Raises:
    DoesNotFitError: the program does not fit the chips' memory.
    ValueError: the plan fails, for example without a compiler.
  """
  path = pathlib.Path(cache) / f'{row.name.replace(" ", "-")}.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.unlink(missing_ok=True)  # Of an earlier run.
  done = subprocess.run(
    row.command(cache, path), capture_output=True, text=True, check=False
  )
  if done.returncode:
    misfit = path.exists() and json.loads(path.read_text()).get('does_not_fit')
    if misfit:
      raise DoesNotFitError(f'{row.name}: {misfit["reason"]}')
    # libtpu's warnings on machines without TPUs are not the error.
    errors = [
      line
      for line in done.stderr.splitlines()
      if re.match(r'error:|[\w.]*(Error|Exception):', line)
    ]
    print(done.stdout)
    raise ValueError(
      f'{row.name}: ' + (errors or [f'exit status {done.returncode}'])[-1]
    )
  return json.loads(path.read_text())


def entry(found: Mapping[str, Any]) -> dict[str, float]:
  """Returns the values of a plan that the budget limits."""
  return dict(
    peak_gib=round(found['memory']['peak'] / _GIB, 2),
    all_to_alls_per_layer=round(found['all_to_alls_per_layer'], 2),
    sequence_sized=len(found['sequence_sized']),
  )


def regressions(
  name: str, found: Mapping[str, Any], budget: Mapping[str, Any]
) -> list[str]:
  """Returns the values of a plan that exceed the budget, one line each."""
  if name not in budget:
    return [f'{name}: not in the budget; add it with --check --write']
  lines = []
  for key, value in entry(found).items():
    allowed = budget[name][key] * (_GROWTH if key == 'peak_gib' else 1)
    if value > allowed:
      lines.append(
        f'{name}: {key} is {value}, the budget is {budget[name][key]}'
      )
  return lines


def markdown(plans: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns the page with the results of rows by their names."""
  lines = [
    '# What fits, and what it costs',
    '',
    'Written by `make plan-table`. No TPU has run any of this: sizes and',
    "cycles are the TPU compiler's, times are a roofline estimate from them.",
    'The model is the 5B transformer with TTT-MLP at 480 x 720 pixels.',
    'Training has a batch of 64 clips; sampling makes one video with guidance,',
    'which is a batch of two.',
    '',
    '| stage | chips | mesh | microbatches | remat | peak GiB | of | host GiB'
    ' | all-to-alls per layer | sequence gathers | PFLOP per step | s per step'
    ' | TFLOP/s per device | MFU | steps | chip-hours |',
    '| --- | --- | --- | ---: | --- |' + ' ---: |' * 11,
    *map(_plan_row, plans.values()),
    '',
    'A sampling row is one denoising step; its chip-hours are those of a',
    'video. "remat" is what is kept for the backward pass: the inputs of',
    'blocks on the chip (`layer`), or with them the results of attention',
    "(`attention`); in the host's memory `offload` and `offload_attention`.",
    "TFLOP/s and MFU count the model's operations once, not those that are",
    'done again; the peaks are below. A chip is one device, of tpu7x two.',
    'There SparseCores gather the parameters, which is not counted: its links',
    'are underestimated.',
    '',
    'Seconds per step, each term as if it were the only one:',
    '',
    '| stage | products | memory | estimated cycles and kernels | exposed'
    ' links | hidden links | host | compiled in |',
    '| --- |' + ' ---: |' * 7,
    *map(_seconds_row, plans.values()),
    '',
    'The estimate is the cycles plus the exposed links, or the largest other',
    'term. It assumes:',
    '',
  ]
  assumed: dict[str, list[str]] = {}
  for plan_ in plans.values():
    for text in plan_['assumptions']:
      topologies = assumed.setdefault(text, [])
      if plan_['topology'] not in topologies:
        topologies.append(plan_['topology'])
  lines += [f'- {", ".join(names)}: {text}' for text, names in assumed.items()]
  lines += ['', "Largest buffers in the chips' memory at the peak:", '']
  for name, plan_ in plans.items():
    buffers = '; '.join(f'`{row}`' for row in plan_['at_the_peak'][:2])
    lines.append(f'- {name}: {buffers}')
  if missing := [row.name for row in ROWS if row.name not in plans]:
    lines += ['', f'Not compiled yet: {", ".join(missing)}.']
  return '\n'.join(lines) + '\n'


def _plan_row(plan_: Mapping[str, Any]) -> str:
  memory, roofline, mesh = plan_['memory'], plan_['roofline'], plan_['mesh']
  pflop = sum(plan_['flops']['model'].values()) / 1e15
  cells = (
    _title(plan_),
    plan_['topology'],
    f'{mesh["data"]} x {mesh["sp"]}',
    plan_['microbatches'],
    plan_['remat'],
    f'{memory["peak"] / _GIB:.1f}',
    f'{memory["limit"] / _GIB:.0f}',
    f'{plan_["host"]["kept"] / _GIB:.1f}',
    f'{plan_["all_to_alls_per_layer"]:g}',
    len(plan_['sequence_sized']),
    f'{pflop:,.0f}',
    f'{roofline["step"]:.1f}',
    f'{pflop * 1e3 / roofline["step"] / mesh["data"] / mesh["sp"]:.0f}',
    f'{roofline["mfu"]:.0%}',
    f'{plan_["steps"]:,}',
    f'{plan_["chip_hours"]:,.1f}',
  )
  return f'| {" | ".join(map(str, cells))} |'


def _seconds_row(plan_: Mapping[str, Any]) -> str:
  names = ('products', 'memory', 'work', 'exposed', 'hidden', 'host')
  cells = ' | '.join(f'{plan_["roofline"][name]:.1f}' for name in names)
  return (
    f'| {_title(plan_)} {plan_["topology"]} {plan_["remat"]} | {cells} |'
    f' {plan_["compile_seconds"]:.0f} s |'
  )


def _title(plan_: Mapping[str, Any]) -> str:
  """Returns stage and mode of a plan."""
  return f'{plan_["config"].rpartition(" ")[2]} {plan_["mode"]}'


def _write(path: pathlib.Path, plans: Mapping[str, Any]) -> None:
  """Writes the page and its JSON, in which other rows stay as they were."""
  data = path.with_suffix('.json')
  previous = json.loads(data.read_text()) if data.exists() else {}
  plans = {**previous, **plans}
  plans = {row.name: plans[row.name] for row in ROWS if row.name in plans}
  path.write_text(markdown(plans))
  files.write_json(plans, data)


def define_flags() -> None:
  """Defines the flags of this command."""
  flags.DEFINE_string('page', None, 'Page to update; default: none.')
  flags.DEFINE_list('rows', [], 'Prefixes of the names of rows.')
  flags.DEFINE_string('cache', '.plan', 'Folder of compiled programs.')
  commands.define_budget_flags()


def main(argv: Sequence[str]) -> int:
  """Plans the rows, and writes the page or compares with the budget."""
  del argv
  options = flags.FLAGS
  rows = [row for row in ROWS if row.checked or not options.check]
  if options.rows:
    rows = [r for r in rows if r.name.startswith(tuple(options.rows))]
  if not rows:
    names = '; '.join(row.name for row in ROWS)
    raise ValueError(
      f'--rows={",".join(options.rows)} matches no row; expected prefixes of:'
      f' {names}'
    )
  plans, lines = {}, []
  budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
  for row in rows:
    plans[row.name] = found = plan(row, options.cache)
    values = entry(found)
    text = ', '.join(f'{k} {v}' for k, v in values.items())
    seconds = found['compile_seconds']
    print(f'{row.name}: {text}, compiled in {seconds:.0f} s', flush=True)
    if options.check and options.write:
      budget[row.name] = values
    elif options.check:
      lines += regressions(row.name, found, budget)
  if options.check and options.write:
    files.write_json(budget, BUDGET)
  if options.page:
    _write(pathlib.Path(options.page), plans)
  for line in lines:
    print(line)
  if options.check and not lines:
    print('within the budget')
  return 1 if lines else 0


if __name__ == '__main__':
  define_flags()
  cli.run(main)
