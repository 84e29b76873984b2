"""Trains the cartoon's model from nothing: codes, latents, five stages.

    python -m examples.cartoon.train --workdir=DIR           # the shipped model
    python -m examples.cartoon.train --workdir=DIR --quick   # make demo-train

The steps are commands that can also be typed. Every one of them goes on where
it was stopped, so the same command continues after an interruption. With
--quick, the shipped autoencoder and two short stages show in 20 minutes how a
model learns to draw. Writes DIR/model, which `examples.cartoon.demo` samples
from.
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

# Stage: stories, segments per story, captions per video. Complete stories of
# one segment would have no second mention, so the first stage cuts longer ones.
_STORIES = {
  '3s': (200, 3, 4),
  '9s': (700, 3, 4),
  '18s': (400, 6, 4),
  '30s': (120, 10, 4),
  '63s': (40, 21, 6),
}
_QUICK_STORIES = {'3s': (100, 3, 2), '9s': (150, 3, 2)}
_QUICK_STEPS = {'3s': 150, '9s': 120}
_SEED = 10_000  # Stages have different stories.

# What a step writes, for the steps that do not look themselves.
_WRITES = {
  'text encoder': 'text_encoder',
  'autoencoder': 'autoencoder/vae',
  'export': 'model',
}


def steps(quick: bool = False) -> list[Step]:
  """Returns the commands; '{workdir}' in them is the folder of the run."""
  workdir = '--workdir={workdir}'
  found = []
  folders: tuple[str, ...] = ()
  if not quick:
    found += [
      Step(
        'text encoder',
        'examples.cartoon.text_encoder',
        ('--out={workdir}/text_encoder',),
      ),
      Step(
        'autoencoder',
        'examples.cartoon.autoencoder',
        (
          '--config=configs/cartoon_vae.py',
          '--workdir={workdir}/autoencoder',
        ),
      ),
    ]
    folders = (
      '--config.vae.folder={workdir}/autoencoder/vae',
      '--config.text.folder={workdir}/text_encoder',
    )
  stories = _QUICK_STORIES if quick else _STORIES
  for stage, (count, segments, renamings) in stories.items():
    config = f'--config=configs/cartoon.py:{stage}'
    options = (f'--config.steps={_QUICK_STEPS[stage]}',) if quick else ()
    found += [
      Step(
        f'draw stories of {stage}',
        'examples.cartoon.dataset',
        (
          '--out={workdir}/stories/' + stage,
          f'--stories={count}',
          f'--segments={segments}',
          '--settings=simple',
          f'--renamings={renamings}',
          f'--seed={int(stage[:-1]) * _SEED}',
        ),
      ),
      Step(
        f'precompute {stage}',
        'ttt_jax.precompute',
        (config, workdir, *folders),
      ),
      Step(
        f'train {stage}',
        'ttt_jax.train',
        (config, workdir, *folders, *options),
      ),
    ]
  export = ('--workdir={workdir}/' + stage, '--out={workdir}/model')
  return [*found, Step('export', 'examples.cartoon.export', export)]


def _define_flags() -> None:
  flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
  flags.DEFINE_bool('quick', False, 'Whether to train two short stages only.')


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
  model = pathlib.Path(workdir) / 'model'
  command = ['python', '-m', 'examples.cartoon.demo', f'--model={model}']
  print('next:', shlex.join(command))


if __name__ == '__main__':
  _define_flags()
  cli.run(main)
