"""Trains all stages up to a given one, each from the end of the previous one.

    python -m launch.stages --config=configs/ttt_video.py:63s --workdir=DIR

runs 3s, 9s, 18s, 30s and 63s: for each stage it writes the data set if it is
missing, then trains. Finished stages are skipped and an interrupted one is
resumed, so the same command continues after any interruption. `--dry_run`
prints the commands. Values set by --config.a.b=VALUE apply to all stages, but
--config.init_from only to the first one.

Every process of a job runs the same command, as with `ttt_jax.train`: JAX finds
the processes, or --coordinator, --num_processes and --process_id name them. The
processes share the work on a data set, and each waits for the others' part.

Exit status: 0 if all stages are finished; 75 if a signal stopped the run after
it saved, or a bucket does not answer (run the command again); otherwise the
status of the command that failed.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import shlex
import signal
import subprocess
import sys
import time

from absl import flags
from ml_collections import config_flags

from launch import chain
from launch import commands
from launch import xla_flags
from ttt_jax.runtime import cli
from ttt_jax.runtime import distributed

_PROCESS_FLAGS = (
  'coordinator',
  'num_processes',
  'process_id',
  'distributed',
  'connect_timeout',
  'heartbeat_timeout',
)
_TRAINING_FLAGS = ('profile_steps',)
# Another host may see a write with a delay.
_SETTLE_SECONDS = 30


class Runner:
  """Runs stages as child processes, one at a time, and forwards signals."""

  def __init__(
    self,
    workdir: str,
    wait_seconds: float,
    shared_flags: Sequence[str] = (),
    training_flags: Sequence[str] = (),
  ):
    """Sets how stages are run.

    Args:
      workdir: folder of all stages.
      wait_seconds: longest wait for the data of other processes.
      shared_flags: flags for all commands.
      training_flags: flags for `ttt_jax.train` only.
    """
    self._workdir, self._wait_seconds = workdir, wait_seconds
    self._shared_flags = [f'--workdir={workdir}', *shared_flags]
    self._training_flags = training_flags
    self._child: subprocess.Popen[bytes] | None = None
    self._signal: signal.Signals | None = None

  def run(self, stages: Sequence[chain.Stage]) -> int:
    """Runs all stages to their end; returns the exit status."""
    handlers = {
      s: signal.signal(s, self._handle_signal)
      for s in (signal.SIGTERM, signal.SIGINT)
    }
    try:
      for stage in stages:
        if status := self._run_stage(stage):
          return status
    finally:
      for number, handler in handlers.items():
        signal.signal(number, handler)
    print(f'all stages are finished: {", ".join(s.name for s in stages)}')
    return 0

  def commands(self, stage: chain.Stage) -> list[list[str]]:
    """Returns the commands that a stage still needs."""
    if chain.saved_step(stage, self._workdir) >= stage.steps:
      return []
    train = stage.command(
      'ttt_jax.train', *self._shared_flags, *self._training_flags
    )
    if chain.has_data(stage):
      return [train]
    return [stage.command('ttt_jax.precompute', *self._shared_flags), train]

  def describe(self, stage: chain.Stage) -> list[str]:
    """Returns lines with the state of a stage and the commands it needs."""
    data = 'exists' if chain.has_data(stage) else 'is missing'
    return [
      f'# {stage.name}: step {chain.saved_step(stage, self._workdir)} of'
      f' {stage.steps} is saved; data set in {stage.data} {data}',
      *map(shlex.join, self.commands(stage)),
    ]

  def _run_stage(self, stage: chain.Stage) -> int:
    commands_ = self.commands(stage)
    if not commands_:
      print(f'{stage.name}: finished, step {stage.steps} is saved', flush=True)
    for command in commands_:
      print(f'{stage.name}: {shlex.join(command)}', flush=True)
      status = self._call(command)
      if self._signal is not None:
        return self._stopped(stage)
      if status:
        print(
          f'error: {command[2]} of stage {stage.name} exited with status'
          f' {status}; fix the cause and run the same command again',
          file=sys.stderr,
        )
        return status
      if not self._wait_for(lambda: chain.has_data(stage), self._wait_seconds):
        print(
          f'error: {stage.data} has no manifest.json; the other processes did'
          f' not finish their part within {self._wait_seconds / 60:g} minutes;'
          ' see their logs, or raise --wait_minutes',
          file=sys.stderr,
        )
        return 1
    done = lambda: chain.saved_step(stage, self._workdir) >= stage.steps
    # Training exits with 0 before its last step if another process received a
    # signal.
    if not self._wait_for(done, _SETTLE_SECONDS):
      return self._stopped(stage)
    return 0

  def _call(self, command: Sequence[str]) -> int:
    """Returns the exit status of a command, 128 + N for signal N."""
    if self._signal is not None:
      return distributed.TRY_AGAIN
    with subprocess.Popen(command) as self._child:
      if self._signal is not None:  # The signal arrived during the start.
        self._child.terminate()
      status = self._child.wait()
    self._child = None
    return status if status >= 0 else 128 - status

  def _stopped(self, stage: chain.Stage) -> int:
    cause = self._signal.name if self._signal else 'another process'
    step = chain.saved_step(stage, self._workdir)
    print(
      f'{stage.name}: stopped by {cause} at step {step} of {stage.steps};'
      ' run the same command again to resume',
      flush=True,
    )
    return distributed.TRY_AGAIN

  def _wait_for(self, ready, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not ready():
      if time.monotonic() >= deadline or self._signal is not None:
        return False
      time.sleep(1)
    return True

  def _handle_signal(self, number: int, _) -> None:
    self._signal = signal.Signals(number)
    # A terminal sends Ctrl-C to the child as well.
    if self._child is not None and number == signal.SIGTERM:
      self._child.send_signal(number)


def environment(chip: str | None, workdir: str) -> dict[str, str]:
  """Returns the variables to set for all commands of a chain."""
  # Training defaults to this cache; precompute shall share it.
  cache = 'JAX_COMPILATION_CACHE_DIR'
  variables = {cache: os.environ.get(cache, f'{workdir}/compilation_cache')}
  if chip:
    variables |= xla_flags.environment(chip, os.environ)
  return variables


def define_flags() -> None:
  """Defines the flags of this command."""
  config_flags.DEFINE_config_file(
    'config', None, f'Config of the last stage. {cli.CONFIG_HELP}'
  )
  flags.DEFINE_string('workdir', None, 'Folder of the training run.')
  flags.DEFINE_enum(
    'chip', None, list(xla_flags.FLAGS), 'Chip whose compiler flags are set.'
  )
  flags.DEFINE_string(
    'profile_steps',
    '',
    'Range of steps to trace into STAGE/profile, FIRST:LAST.',
  )
  flags.DEFINE_integer(
    'wait_minutes',
    120,
    'Longest wait for the data of other processes.',
    lower_bound=0,
  )
  commands.define_flags()


def main(argv: Sequence[str]) -> int:
  """Trains the stages up to that of --config, or prints their commands."""
  del argv
  options = flags.FLAGS
  if options.config is None or not options.workdir:
    raise ValueError(
      '--config or --workdir is missing, for example'
      ' --config=configs/ttt_video.py:63s --workdir=run'
    )
  workdir = options.workdir.rstrip('/')
  config = options['config']
  stages = chain.stages_up_to(
    config_flags.get_config_filename(config),
    config_flags.get_override_values(config),
    workdir,
  )

  def present(names):
    return [options[n].serialize() for n in names if options[n].present]

  runner = Runner(
    workdir,
    wait_seconds=60 * options.wait_minutes,
    shared_flags=present(_PROCESS_FLAGS),
    training_flags=present(_TRAINING_FLAGS),
  )
  variables = environment(options.chip, workdir)
  for name, value in variables.items():
    print(f'export {name}={shlex.quote(value)}')
  if options.dry_run:
    for stage in stages:
      print('\n'.join(runner.describe(stage)))
    return 0
  os.environ.update(variables)
  return runner.run(stages)


if __name__ == '__main__':
  define_flags()
  cli.run(main)
