"""Plans of all stages as one table, and the check that none got worse.

    python -m launch.planner.table --out=docs/plan.md [--rows=3s,"63s sample"]
    python -m launch.planner.table --check      # what matters most, against a budget
    python -m launch.planner.table --check --write

Every row is a process of `launch.plan`, one after the other. What is compiled
is kept in `--cache`, so that a run that was stopped goes on where it was; a
changed program is compiled anew. The results go beside the table, as JSON;
rows that `--rows` leaves out stay there.
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

from ttt_jax.runtime import cli

BUDGET = pathlib.Path(__file__).parent / 'plan_budget.json'
_GIB = 2**30
# What a peak may grow by: the compiler's choices move it a little.
_GROWTH = 1.02


@dataclasses.dataclass(frozen=True)
class Row:
  """A plan of the table.

  Attributes:
    stage: of configs/ttt_video.py.
    mode: 'train' or 'sample'.
    topology: of the chips.
    mesh: as in a command line.
    microbatches: of a training step.
    remat: of a training step.
    checked: whether `--check` compiles it.
  """

  stage: str
  mode: str
  topology: str
  mesh: str
  microbatches: int = 1
  remat: str = 'layer'
  checked: bool = False

  @property
  def name(self) -> str:
    """Unique in the table."""
    remat = ' offload' if self.remat == 'offload' else ''
    return f'{self.stage} {self.mode} {self.topology}{remat}'

  def command(self, cache: str, path: pathlib.Path) -> list[str]:
    """Of the plan, which writes its results to `path`."""
    return [
      sys.executable,
      '-m',
      'launch.plan',
      f'--config=configs/ttt_video.py:{self.stage}',
      f'--mode={self.mode}',
      f'--topology={self.topology}',
      f'--mesh={self.mesh}',
      f'--config.microbatches={self.microbatches}',
      f'--config.model.remat={self.remat}',
      f'--cache={cache}',
      f'--json={path}',
    ]


ROWS = (
  Row('3s', 'train', 'v5p:8x8x4', 'data:64,sp:4'),
  Row('9s', 'train', 'v5p:8x8x4', 'data:64,sp:4'),
  Row('18s', 'train', 'v5p:8x8x4', 'data:64,sp:4'),
  Row('30s', 'train', 'v5p:8x8x4', 'data:64,sp:4'),
  Row('63s', 'train', 'v5p:8x8x4', 'data:64,sp:4'),
  Row('63s', 'train', 'v5p:8x8x4', 'data:64,sp:4', 1, 'offload', True),
  Row('63s', 'train', 'v6e:16x16', 'data:32,sp:8', 2, 'offload'),
  Row('63s', 'train', 'v5e:16x16', 'data:16,sp:16', 4, 'offload', True),
  Row('63s', 'sample', 'v5p:4x4x2', 'data:2,sp:16', checked=True),
  Row('63s', 'sample', 'v5e:4x4', 'data:2,sp:8'),
)


def plan(row: Row, cache: str) -> dict[str, Any]:
  """Results of a row; its own output is shown only if it fails.

  Raises:
    ValueError: the plan says that it does not fit, or found no compiler.
  """
  path = pathlib.Path(cache) / f'{row.name.replace(" ", "-")}.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  done = subprocess.run(
    row.command(cache, path), capture_output=True, text=True, check=False
  )
  if done.returncode:
    # Of the output, what libtpu says of machines without TPUs is not it.
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
  """What the budget keeps of a plan."""
  return dict(
    peak_gib=round(found['memory']['peak'] / _GIB, 2),
    all_to_alls_a_layer=round(found['all_to_alls_a_layer'], 2),
    sequence_sized=len(found['sequence_sized']),
  )


def complaints(
  name: str, found: Mapping[str, Any], budget: Mapping[str, Any]
) -> list[str]:
  """What of a plan is worse than the budget allows, a line each."""
  if name not in budget:
    return [f'{name}: not in the budget; write it with --check --write']
  lines = []
  for key, value in entry(found).items():
    allowed = budget[name][key] * (_GROWTH if key == 'peak_gib' else 1)
    if value > allowed:
      lines.append(
        f'{name}: {key} is {value}, the budget is {budget[name][key]}'
      )
  return lines


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
  """The page with a table of the results of rows by their names."""
  head = (
    '# What fits, and what it costs',
    '',
    'Written by `make plan-table`. No TPU has run any of this: sizes and',
    "cycles are the TPU compiler's, times a roofline estimate from them. The",
    '5B model with TTT-MLP, 480 x 720 pixels; training with a batch of 64,',
    'sampling one video with guidance (a batch of two).',
    '',
    '| stage | chips | mesh | microbatches | remat | peak GiB | of | host GiB'
    ' | all-to-alls a layer | sequence gathers | PFLOP a step | s a step'
    ' | MFU | steps | chip-hours |',
    '| --- | --- | --- | ---: | --- |' + ' ---: |' * 10,
  )
  lines = [*head, *(_line(one) for one in found.values())]
  lines += [
    '',
    'A sampling row is one denoising step, its chip-hours are those of a',
    'video. "remat" says where the inputs of the blocks wait for the backward',
    "pass: on the chip (`layer`) or in the host's memory (`offload`).",
    '',
    'Seconds of a step, each as if it were all:',
    '',
    '| stage | products | memory | estimated cycles and kernels | exposed'
    ' links | hidden links | host | compiled in |',
    '| --- |' + ' ---: |' * 7,
    *(_seconds(one) for one in found.values()),
    '',
    'The estimate is the cycles and the exposed links, or the largest other',
    'term. It assumes:',
    '',
  ]
  assumed: dict[str, list[str]] = {}
  for one in found.values():
    for text in one['assumptions']:
      kinds = assumed.setdefault(text, [])
      if (slice_ := one['topology']) not in kinds:
        kinds.append(slice_)
  lines += [f'- {", ".join(kinds)}: {text}' for text, kinds in assumed.items()]
  lines += ['', "What fills the chips' memory at the peak:", '']
  for name, one in found.items():
    rows = '; '.join(f'`{row}`' for row in one['at_the_peak'][:2])
    lines.append(f'- {name}: {rows}')
  if missing := [row.name for row in ROWS if row.name not in found]:
    lines += ['', f'Not compiled yet: {", ".join(missing)}.']
  return '\n'.join(lines) + '\n'


def _line(one: Mapping[str, Any]) -> str:
  memory, line, mesh = one['memory'], one['roofline'], one['mesh']
  pflop = sum(one['flops']['model'].values()) / 1e15
  return (
    f'| {_what(one)} | {one["topology"]} | {mesh["data"]} x {mesh["sp"]} |'
    f' {one["microbatches"]} | {one["remat"]} |'
    f' {memory["peak"] / _GIB:.1f} | {memory["limit"] / _GIB:.0f} |'
    f' {one["host"]["kept"] / _GIB:.1f} | {one["all_to_alls_a_layer"]:g} |'
    f' {len(one["sequence_sized"])} | {pflop:,.0f} | {line["step"]:.1f} |'
    f' {line["mfu"]:.0%} | {one["steps"]:,} | {one["chip_hours"]:,.1f} |'
  )


def _seconds(one: Mapping[str, Any]) -> str:
  line = one['roofline']
  names = ('products', 'memory', 'work', 'exposed', 'hidden', 'host')
  cells = ' | '.join(f'{line[name]:.1f}' for name in names)
  return (
    f'| {_what(one)} {one["topology"]} {one["remat"]} | {cells} |'
    f' {one["compile_seconds"]:.0f} s |'
  )


def _what(one: Mapping[str, Any]) -> str:
  stage = one['config'].rpartition(' ')[2]
  return f'{stage} {one["mode"]}'


def _write(path: pathlib.Path, found: Mapping[str, Any]) -> None:
  """The page and its JSON; rows that did not run now stay as they were."""
  data = path.with_suffix('.json')
  before = json.loads(data.read_text()) if data.exists() else {}
  rows = {**before, **found}
  rows = {row.name: rows[row.name] for row in ROWS if row.name in rows}
  path.write_text(markdown(rows))
  data.write_text(json.dumps(rows, indent=1) + '\n')


def define_flags() -> None:
  """The flags of this command."""
  flags.DEFINE_string('out', None, 'Markdown file to write.')
  flags.DEFINE_list('rows', [], 'Only rows whose names begin so.')
  flags.DEFINE_string('cache', '.plan', 'Folder of compiled programs.')
  flags.DEFINE_bool('check', False, 'Compare the rows that matter most.')
  flags.DEFINE_bool('write', False, 'Make their values the budget.')


def main(argv: Sequence[str]) -> int:
  """Entry point."""
  del argv
  options = flags.FLAGS
  rows = [row for row in ROWS if row.checked or not options.check]
  if options.rows:
    rows = [r for r in rows if r.name.startswith(tuple(options.rows))]
  if not rows:
    names = '; '.join(row.name for row in ROWS)
    raise ValueError(f'--rows={",".join(options.rows)} names none of: {names}')
  found, lines = {}, []
  budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
  for row in rows:
    found[row.name] = one = plan(row, options.cache)
    values = entry(one)
    print(
      f'{row.name}: '
      + ', '.join(f'{k} {v}' for k, v in values.items())
      + f', compiled in {one["compile_seconds"]:.0f} s',
      flush=True,
    )
    if options.check and options.write:
      budget[row.name] = values
    elif options.check:
      lines += complaints(row.name, one, budget)
  if options.check and options.write:
    BUDGET.write_text(json.dumps(budget, indent=1) + '\n')
  if options.out:
    _write(pathlib.Path(options.out), found)
  for line in lines:
    print(line)
  if options.check and not lines:
    print('within the budget')
  return 1 if lines else 0


if __name__ == '__main__':
  define_flags()
  cli.run(main)
