"""Trains the cartoon's model from nothing: latents and three stages.

    python -m examples.cartoon.train --workdir=cartoon

The steps are commands that can also be typed. Every one of them goes on where
it was stopped, so the same command continues after an interruption. Writes
cartoon/model, which `examples.cartoon.demo` samples from.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import shlex

from absl import flags

from examples import demo_steps
from examples.demo_steps import Step
from ttt_jax.runtime import cli
from ttt_jax.runtime import paths

_STAGES = ('3s', '9s', '9s_low')
_FRAMES = ('--height=64', '--width=96', '--fps=8')
_LATENTS = ('--channels=128', '--cell=16', '--balance=0.25', '--stories=96')

# What a step writes, for the steps that do not look themselves.
_WRITES = {
  'text encoder': 'text_encoder',
  'autoencoder': 'autoencoder',
  'export': 'model',
}


def steps() -> list[Step]:
  """Returns the commands; '{workdir}' in them is the folder of the run."""
  workdir = '--workdir={workdir}'
  folders = (
    '--config.vae.folder={workdir}/autoencoder',
    '--config.text.folder={workdir}/text_encoder',
  )
  found = [
    Step(
      'text encoder',
      'examples.cartoon.text_encoder',
      ('--out={workdir}/text_encoder',),
    ),
    Step(
      'autoencoder',
      'examples.cartoon.linear',
      ('--out={workdir}/autoencoder', *_FRAMES, *_LATENTS),
    ),
    Step(
      'draw stories',
      'examples.cartoon.dataset',
      (
        '--out={workdir}/stories/9s',
        '--stories=1500',
        '--segments=3',
        '--settings=simple',
        *_FRAMES,
        '--renamings=4',
        '--seed=90000',
      ),
    ),
  ]
  for stage in ('3s', '9s'):
    config = f'--config=configs/cartoon.py:{stage}'
    found.append(
      Step(
        f'precompute {stage}',
        'ttt_jax.precompute',
        (config, workdir, *folders),
      )
    )
  for stage in _STAGES:
    config = f'--config=configs/cartoon.py:{stage}'
    found.append(
      Step(f'train {stage}', 'ttt_jax.train', (config, workdir, *folders))
    )
  export = ('--workdir={workdir}/' + _STAGES[-1], '--out={workdir}/model')
  return [*found, Step('export', 'examples.cartoon.export', export)]


def _define_flags() -> None:
  flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)


def main(argv: Sequence[str]) -> None:
  """Trains the model in the folder of the flags."""
  del argv
  workdir = paths.require_local(flags.FLAGS.workdir, '--workdir')
  workdir.mkdir(parents=True, exist_ok=True)
  results = []
  for step in steps():
    written = _WRITES.get(step.title)
    if written is None or not (workdir / written).exists():
      results.append(demo_steps.run(step, workdir))
  demo_steps.print_summary(results, workdir)
  model = pathlib.Path(workdir) / 'model'
  command = ['python', '-m', 'examples.cartoon.demo', f'--model={model}']
  print('next:', shlex.join(command))


if __name__ == '__main__':
  _define_flags()
  cli.run(main)
