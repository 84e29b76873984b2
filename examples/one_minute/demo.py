"""Runs a demonstration: the commands that a user would type, one by one.

    python -m examples.one_minute.demo --workdir=demo            what `make demo` runs
    python -m examples.one_minute.demo --workdir=demo --memory   what `make demo-memory` runs

Each step is printed, timed and its memory measured; the end is a table of
them, a list of the files, and the next command. A step that fails, or a model
that does not show what it was asked for, ends the demonstration with exit
status 1.
"""

from __future__ import annotations

import json
import pathlib
import shlex
import sys

from absl import flags
from rich import console as rich_console
from rich import table as rich_table

from examples import demo_steps
from examples.demo_steps import Step
from ttt_jax.runtime import cli

_WORKDIR = flags.DEFINE_string('workdir', 'demo', 'Folder of all outputs.')
_MEMORY = flags.DEFINE_bool(
  'memory', False, 'Compare TTT layers with local attention alone.'
)

_STORIES = 'configs/storyboards'
# A model that knows a few clips by heart needs little guidance.
_SAMPLING = ('--steps=25', '--guidance=1.25', '--guidance_schedule=constant')
# What a demonstration leaves behind, but for the cache of compiled programs.
_SHOW = (
  '*.mp4',
  '*.png',
  '*.json',
  '*/losses.png',
  '*/metrics.jsonl',
  '*/events*',
  '*/checkpoints',
  'data/*',
)


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
  done = [demo_steps.run(step, workdir) for step in steps]

  demo_steps.summary(done, workdir)
  if _MEMORY.value:
    good = memory_verdict(workdir, mixers)
  else:
    good = story_verdict(workdir)
  print('files:')
  for path in sorted({p for g in _SHOW for p in workdir.glob(g)}):
    print(f'  {path}')
  print(f'losses in a browser: tensorboard --logdir={workdir}')
  if _MEMORY.value:
    print(
      'next: read docs/memory.md, or compare TTT-Linear with'
      ' --config=configs/memory.py:18s,ttt_linear'
    )
  else:
    print(
      'next: write your own storyboard like'
      f' {_STORIES}/one_minute.json and run\n'
      f'  python -m ttt_jax.sample --workdir={workdir}'
      f' --storyboard=FILE.json --out={workdir}/mine.mp4'
      f' {shlex.join(_SAMPLING)}'
    )
  if not good:
    print(
      'error: the model does not show what it was asked for', file=sys.stderr
    )
    return 1
  return 0


if __name__ == '__main__':
  cli.run(main)
