"""Runs a demonstration: the commands that a user would type, one by one.

    python -m ttt_jax.demo --workdir=demo            what `make demo` runs
    python -m ttt_jax.demo --workdir=demo --memory   what `make demo-memory` runs

Each step is printed, timed and its memory measured; the end is a table of
them, a list of the files, and the next command. A step that fails, or a model
that does not show what it was asked for, ends the demonstration with exit
status 1.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

from absl import flags
from rich import console as rich_console
from rich import rule
from rich import table as rich_table

from ttt_jax import cli

_WORKDIR = flags.DEFINE_string('workdir', 'demo', 'Folder of all outputs.')
_MEMORY = flags.DEFINE_bool(
    'memory', False, 'Compare TTT layers with local attention alone.'
)

_STORIES = 'configs/storyboards'
# A model that knows a few clips by heart needs little guidance.
_SAMPLING = ('--steps=25', '--guidance=1.25',
             '--guidance_schedule=constant')  # pyformat: disable
# What a demonstration leaves behind, but for the cache of compiled programs.
_SHOW = ('*.mp4', '*.png', '*.json', '*/losses.png', '*/metrics.jsonl',
         '*/events*', '*/checkpoints', 'data/*')  # pyformat: disable


@dataclasses.dataclass(frozen=True)
class Step:
  """One command of a demonstration.

  Attributes:
    title: what it does.
    module: of `python -m`.
    arguments: of the command; '{workdir}' is filled in.
  """

  title: str
  module: str
  arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Done:
  """A step that has run.

  Attributes:
    title: what it did.
    seconds: wall time.
    peak_mb: largest resident memory.
  """

  title: str
  seconds: float
  peak_mb: float


def story_steps() -> list[Step]:
  """Clips to latents, two stages, a check, one minute of video."""
  where = '--workdir={workdir}'

  def stage(name):
    config = f'--config=configs/quickstart.py:{name}'
    return [
        Step(f'precompute {name}', 'ttt_jax.precompute', (config, where)),
        Step(f'train {name}', 'ttt_jax.train', (config, where)),
    ]

  check = Step(
      'check the captions',
      'ttt_jax.evaluate',
      (
          where + '/3s',
          f'--storyboards={_STORIES}/quickstart_3s.json',
          *_SAMPLING,
          '--out={workdir}/captions.json',
      ),
  )
  minute = Step(
      'sample one minute',
      'ttt_jax.sample',
      (
          where + '/9s',
          f'--storyboard={_STORIES}/one_minute.json',
          '--out={workdir}/one_minute.mp4',
          *_SAMPLING,
      ),
  )
  return [*stage('3s'), check, *stage('9s'), minute]


def memory_steps(mixers: tuple[str, ...]) -> list[Step]:
  """Two stages and a score at 63 seconds for each mixer, trained alike."""
  steps = [
      Step(
          f'precompute {stage}',
          'ttt_jax.precompute',
          (f'--config=configs/memory.py:{stage}', '--workdir={workdir}'),
      )
      for stage in ('3s', '18s')
  ]
  for mixer in mixers:
    steps += [
        Step(
            f'train {stage}, {mixer}',
            'ttt_jax.train',
            (
                f'--config=configs/memory.py:{stage},{mixer}',
                '--workdir={workdir}',
            ),
        )
        for stage in ('3s', '18s')
    ]
    steps.append(
        Step(
            f'63 s from one caption, {mixer}',
            'ttt_jax.evaluate',
            (
                '--workdir={workdir}/' + f'{mixer}_18s',
                f'--storyboards={_STORIES}/memory_63s.json',
                f'--first_segment={FIRST_LATE_SEGMENT}',
                '--seeds=3',
                *_SAMPLING,
                '--out={workdir}/' + f'{mixer}.json',
            ),
        )
    )
  return steps


# A frame shared by two windows carries news one segment further in every
# layer: with four layers, segments 0 to 4 can know of the first caption within
# one pass of the network. From here on they cannot.
FIRST_LATE_SEGMENT = 5


def run(step: Step, workdir: pathlib.Path) -> Done:
  """Runs a step as a process of its own.

  Raises:
    SystemExit: the process failed.
  """
  arguments = [a.replace('{workdir}', str(workdir)) for a in step.arguments]
  console = rich_console.Console()
  console.print(rule.Rule(f'[bold]{step.title}', align='left'))
  print('$', shlex.join(['python', '-m', step.module, *arguments]), flush=True)
  # Compiled programs are shared by the steps and by later runs.
  environment = dict(os.environ)
  environment.setdefault(
      'JAX_COMPILATION_CACHE_DIR', str(workdir.resolve() / 'jax_cache')
  )
  start = time.perf_counter()
  process = subprocess.Popen(
      [sys.executable, '-m', step.module, *arguments], env=environment
  )
  _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  seconds = time.perf_counter() - start
  if process.returncode:
    print(f'error: step {step.title!r} failed; outputs so far are in {workdir}',
          file=sys.stderr)  # pyformat: disable
    raise SystemExit(1)
  unit = 2**20 if sys.platform == 'darwin' else 2**10
  return Done(step.title, seconds, usage.ru_maxrss / unit)


def story_verdict(workdir: pathlib.Path) -> bool:
  """Whether every training caption gives its clip, at 25 dB or more."""
  result = json.loads((workdir / 'captions.json').read_text())
  worst = min(min(sample['psnr']) for sample in result['samples'])
  samples = len(result['samples'])
  right = sum(s['expected'] == s['shown'] for s in result['samples'])
  print(
      f'captions that give their own clip: {right} of {samples}; worst'
      f' {worst:.1f} dB against the reconstruction (25 dB is asked for)'
  )
  return right == samples and worst >= 25


def memory_verdict(workdir: pathlib.Path, mixers: tuple[str, ...]) -> bool:
  """Whether TTT remembers (90 % or more) what local attention cannot.

  Without TTT the share should be near chance; half is no longer near.
  """
  table = rich_table.Table(title='late segments that show the right thing')
  table.add_column('mixer')
  table.add_column('right', justify='right')
  table.add_column('chance', justify='right')
  shares = {}
  for mixer in mixers:
    result = json.loads((workdir / f'{mixer}.json').read_text())
    shares[mixer] = result['share_right']
    table.add_row(
        mixer, f'{result["share_right"]:.1%}', f'{result["chance"]:.0%}'
    )
  rich_console.Console().print(table)
  return shares['ttt_mlp'] >= 0.9 and shares['none'] < 0.5


def main(_) -> int:
  workdir = pathlib.Path(_WORKDIR.value)
  if _MEMORY.value:
    workdir /= 'memory'
  workdir.mkdir(parents=True, exist_ok=True)
  mixers = ('ttt_mlp', 'none')
  steps = memory_steps(mixers) if _MEMORY.value else story_steps()
  done = [run(step, workdir) for step in steps]

  console = rich_console.Console()
  console.print(rule.Rule('[bold]summary', align='left'))
  table = rich_table.Table()
  for column in ('step', 'seconds', 'peak MB'):
    table.add_column(column, justify='left' if column == 'step' else 'right')
  for d in done:
    table.add_row(d.title, f'{d.seconds:.0f}', f'{d.peak_mb:,.0f}')
  table.add_section()
  table.add_row(
      'all',
      f'{sum(d.seconds for d in done):.0f}',
      f'{max(d.peak_mb for d in done):,.0f}',
  )
  console.print(table)
  (workdir / 'summary.json').write_text(
      json.dumps([dataclasses.asdict(d) for d in done], indent=1)
  )
  if _MEMORY.value:
    good = memory_verdict(workdir, mixers)
  else:
    good = story_verdict(workdir)
  print('files:')
  for path in sorted({p for g in _SHOW for p in workdir.glob(g)}):
    print(f'  {path}')
  print(f'losses in a browser: tensorboard --logdir={workdir}')
  if _MEMORY.value:
    print('next: read docs/memory.md, or compare TTT-Linear with'
          ' --config=configs/memory.py:18s,ttt_linear')
  else:
    print('next: write your own storyboard like'
          f' {_STORIES}/one_minute.json and run\n'
          f'  python -m ttt_jax.sample --workdir={workdir}'
          f' --storyboard=FILE.json --out={workdir}/mine.mp4'
          f' {shlex.join(_SAMPLING)}')
  if not good:
    print('error: the model does not show what it was asked for',
          file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  cli.run(main)
