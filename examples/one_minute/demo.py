"""Trains on three clips and samples one minute of video.

    python -m examples.one_minute.demo --workdir=demo/clips     # demo-clips
    python -m examples.one_minute.demo --workdir=demo --memory  # demo-memory

The steps are the commands that a user would type. Prints each step, its time
and its memory, then the files and the next command. Exits with status 1 if a
step fails or the model does not show the expected clips.
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
  'memory', False, 'Comparison of TTT layers with local attention alone.'
)

_STORIES = 'configs/storyboards'
# A model that has memorized a few clips needs little guidance.
_SAMPLING = ('--steps=25', '--guidance=1.25', '--guidance_schedule=constant')
# Outputs of a demonstration, without the cache of compiled programs.
_OUTPUTS = (
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
  """Returns the steps: latents, two stages, a check, one minute of video."""
  workdir = '--workdir={workdir}'

  def stage(name):
    config = f'--config=configs/quickstart.py:{name}'
    return [
      Step(f'precompute {name}', 'ttt_jax.precompute', (config, workdir)),
      Step(f'train {name}', 'ttt_jax.train', (config, workdir)),
    ]

  check = Step(
    'check the captions',
    'ttt_jax.evaluate',
    (
      workdir + '/3s',
      f'--storyboards={_STORIES}/quickstart_3s.json',
      *_SAMPLING,
      '--out={workdir}/captions.json',
    ),
  )
  minute = Step(
    'sample one minute',
    'ttt_jax.sample',
    (
      workdir + '/9s',
      f'--storyboard={_STORIES}/one_minute.json',
      '--out={workdir}/one_minute.mp4',
      *_SAMPLING,
    ),
  )
  return [*stage('3s'), check, *stage('9s'), minute]


def memory_steps(mixers: tuple[str, ...]) -> list[Step]:
  """Returns the steps: two stages and a score at 63 seconds per mixer."""
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


# A frame that two windows share passes information on by one segment per layer.
# With four layers, the first caption reaches segments 0 to 4 within one pass of
# the network, and no later segment.
FIRST_LATE_SEGMENT = 5


def story_passes(workdir: pathlib.Path) -> bool:
  """Returns whether every training caption gives its clip, at 25 dB or more."""
  result = json.loads((workdir / 'captions.json').read_text())
  worst = min(min(sample['psnr']) for sample in result['samples'])
  samples = len(result['samples'])
  correct = sum(s['expected'] == s['shown'] for s in result['samples'])
  print(
    f'captions that give their own clip: {correct} of {samples}; worst'
    f' {worst:.1f} dB against the reconstruction (25 dB is required)'
  )
  return correct == samples and worst >= 25


def memory_passes(workdir: pathlib.Path, mixers: tuple[str, ...]) -> bool:
  """Returns whether TTT layers, and only they, carry the first caption.

  With TTT layers at least 90 % of the late segments must show the expected
  shot; without them less than 50 %, where chance is 33 %.
  """
  table = rich_table.Table(title='late segments that show the expected shot')
  table.add_column('mixer')
  table.add_column('correct', justify='right')
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
  results = [demo_steps.run(step, workdir) for step in steps]

  demo_steps.print_summary(results, workdir)
  if _MEMORY.value:
    passed = memory_passes(workdir, mixers)
  else:
    passed = story_passes(workdir)
  print('files:')
  for path in sorted({p for g in _OUTPUTS for p in workdir.glob(g)}):
    print(f'  {path}')
  print(f'losses in a browser: tensorboard --logdir={workdir}')
  if _MEMORY.value:
    print(
      'next: read docs/remember.md, or compare TTT-Linear with'
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
  if not passed:
    print('error: the model does not show the expected clips', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  cli.run(main)
