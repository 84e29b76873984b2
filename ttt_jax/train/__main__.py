"""Trains one stage.

    ttt-jax train --config=quickstart:3s --workdir=DIR
    ttt-jax train --config=mine.py --config.steps=2000 --workdir=DIR
    ttt-jax train --config=ttt_video:63s,gated_deltanet --dry_run

Writes checkpoints/, TensorBoard events, metrics.jsonl and losses.png to
DIR/STAGE. The same command resumes a run that was stopped. `--dry_run` prints
sizes and parameter groups instead. --config.a.b=VALUE replaces a value of the
config. `--precompile` only compiles the programs of the stage, into the cache
of compiled programs that all stages of DIR share.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags
import jax
import ml_collections
from ml_collections import config_flags
from rich import console as rich_console
from rich import table as rich_table

from ttt_jax import backbones
from ttt_jax.data import single_video
from ttt_jax.pipeline import training_samples
from ttt_jax.runtime import bucket
from ttt_jax.runtime import cli
from ttt_jax.runtime import compilation
from ttt_jax.runtime import distributed
from ttt_jax.runtime import files
from ttt_jax.train import experiment as experiment_lib
from ttt_jax.train import loop
from ttt_jax.train import metrics
from ttt_jax.train import optimizer
from ttt_jax.train import profile

_CONFIG = config_flags.DEFINE_config_file('config', None, cli.CONFIG_HELP)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the training run.')
_PROFILE_STEPS = flags.DEFINE_string(
  'profile_steps', '', 'Range of steps to trace into STAGE/profile, FIRST:LAST.'
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Printed preview of the run, without running it.'
)
_PRECOMPILE = flags.DEFINE_bool(
  'precompile', False, 'Compilation of the programs only, without running them.'
)


def dry_run(config: ml_collections.ConfigDict) -> None:
  """Prints the geometry and the parameter groups; uses no accelerator."""
  jax.config.update('jax_platforms', 'cpu')
  experiment_lib.check_config(config)
  sizes = rich_table.Table(title=f'{config.name}, stage {config.stage}')
  sizes.add_column('quantity')
  sizes.add_column('value', justify='right')
  for row in backbones.size_table(config):
    sizes.add_row(*row)
  params = backbones.from_config(config).abstract_params()
  console = rich_console.Console()
  console.print(sizes)
  console.print(optimizer.group_table(config.optimizer, params))


def main(argv: Sequence[str]) -> int:
  """Trains the stage of `--config`."""
  del argv
  config = _CONFIG.value
  if config is None:
    raise ValueError('--config is missing, for example --config=quickstart:3s')
  if _DRY_RUN.value:
    dry_run(config)
    return 0
  if not _WORKDIR.value:
    raise ValueError('--workdir is missing; name a folder for the results')
  experiment_lib.check_config(config)
  profile.check(_PROFILE_STEPS.value or config.get('profile', ''))
  files.check_writable(_WORKDIR.value, folder=True)
  bucket.check(_WORKDIR.value, write=True)
  for path in (config.get('init_from', ''), config.data.folder):
    bucket.check(path)
  distributed.initialize()
  compilation.enable_compilation_cache(_WORKDIR.value)
  if 'video' in config:
    experiment_lib.check_start(config, _WORKDIR.value)
    single_video.prepare(config, _WORKDIR.value)
  experiment = experiment_lib.Experiment(config, _WORKDIR.value)
  console = rich_console.Console()
  console.print(
    optimizer.group_table(config.optimizer, experiment.abstract_params)
  )
  if _PRECOMPILE.value:
    loop.precompile(experiment)
    print(f'compiled the programs of {experiment.folder}')
    return 0
  sample = None
  if config.sample_every:
    sample = training_samples.make_sample_hook(experiment, _WORKDIR.value)
  state = loop.train(experiment, sample, _PROFILE_STEPS.value)
  folder = experiment.folder
  print(
    f'wrote {folder}/checkpoints, {folder / metrics.LOG},'
    f' {folder / metrics.PLOT} and TensorBoard events in {folder}'
  )
  if int(state.step) == config.steps:
    command, arguments = 'sample', '--storyboard=FILE.json --out=FILE.mp4'
    if 'video' in config:
      command, arguments = 'edit', '--prompt="..."'
    print(f'next: ttt-jax {command} --workdir={_WORKDIR.value} {arguments}')
  return 0


if __name__ == '__main__':
  cli.run(main)
