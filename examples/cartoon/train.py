"""Trains the cartoon's model from nothing: latents and three stages.

    python -m examples.cartoon.train --workdir=cartoon
    python -m examples.cartoon.train --workdir=cartoon --quick

The steps are commands that can also be typed. Every one of them resumes where
it was stopped, so the same command continues after an interruption. Writes
cartoon/model and samples a story with it. `--quick` has fewer stories and
steps, 16 minutes on two cores; it is `make demo-train`.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from examples import demo_steps
from examples.demo_steps import Step
from ttt_jax.runtime import cli
from ttt_jax.runtime import paths

_FRAMES = ('--height=64', '--width=96', '--fps=8')
_LATENTS = ('--channels=128', '--cell=16', '--balance=0.5')

# Result of each step that does not look itself for an existing one.
_WRITES = {
  'text encoder': 'text_encoder',
  'autoencoder': 'autoencoder',
  'decoder': 'refined_autoencoder',
  'export': 'model',
}


def steps(quick: bool = False) -> list[Step]:
  """Returns the commands; '{workdir}' in them is the folder of the run.

  Args:
    quick: Whether to train for minutes.
  """
  clips = ('quick_3s', 'quick_9s') if quick else ('3s', '9s')
  # The last stage has the clips of the one before.
  stages = clips if quick else (*clips, 'details')
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
      (
        '--out={workdir}/autoencoder',
        *_FRAMES,
        *_LATENTS,
        f'--stories={32 if quick else 96}',
      ),
    ),
    Step(
      'draw stories',
      'examples.cartoon.dataset',
      (
        '--out={workdir}/stories/9s',
        f'--stories={300 if quick else 1500}',
        '--segments=3',
        '--settings=simple',
        *_FRAMES,
        '--renamings=4',
        '--seed=90000',
      ),
    ),
  ]
  for module, of in (('precompute', clips), ('train', stages)):
    for stage in of:
      config = f'--config=configs/cartoon.py:{stage}'
      found.append(
        Step(
          f'{module} {stage}', f'ttt_jax.{module}', (config, workdir, *folders)
        )
      )
  export = ['--workdir={workdir}/' + stages[-1], '--out={workdir}/model']
  if not quick:
    found.append(
      Step(
        'decoder',
        'examples.cartoon.decoder',
        (
          '--autoencoder={workdir}/autoencoder',
          '--stories={workdir}/stories/9s',
          '--out={workdir}/refined_autoencoder',
        ),
      )
    )
    export.append('--vae={workdir}/refined_autoencoder')
  sample = ('--model={workdir}/model', workdir)
  return [
    *found,
    Step('export', 'examples.cartoon.export', tuple(export)),
    Step('sample', 'examples.cartoon.demo', sample),
  ]


def _define_flags() -> None:
  flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
  flags.DEFINE_bool('quick', False, 'Short training, of minutes.')


def main(argv: Sequence[str]) -> None:
  """Trains the model in the folder of the flags."""
  del argv
  workdir = paths.require_local(flags.FLAGS.workdir, '--workdir')
  workdir.mkdir(parents=True, exist_ok=True)
  results = []
  for step in steps(flags.FLAGS.quick):
    written = _WRITES.get(step.title)
    if written is None or not (workdir / written).exists():
      results.append(demo_steps.run(step, workdir))
  demo_steps.print_summary(results, workdir)


if __name__ == '__main__':
  _define_flags()
  cli.run(main)
