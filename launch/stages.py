"""All stages up to one, each from the end of the one before.

    python -m launch.stages --config=configs/ttt_video.py:63s --workdir=DIR

runs 3s, 9s, 18s, 30s, 63s: makes a stage's data set if it is missing, then
trains it. What is finished is skipped and what was stopped goes on, so the
same command serves after anything that happened. `--dry_run` prints the
commands. Values set by --config.a.b=VALUE hold for all stages, but
--config.init_from for the first alone.

Every process of a job runs the same command, as `ttt_jax.train`: processes
are found by JAX or named by --coordinator, --num_processes, --process_id. The
data set is shared out between them, and each waits for the others' part.

Exit status: 0 all is finished; 75 stopped by a signal and saved, or a bucket
does not answer: start again; otherwise that of the command that failed.
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

_PROCESSES = (
  'coordinator',
  'num_processes',
  'process_id',
  'distributed',
  'connect_timeout',
  'heartbeat_timeout',
)
_TRAINING = ('profile_steps',)
# Writes of one host may show on another a little later.
_SETTLE_SECONDS = 30


class Runner:
  """Runs stages as processes, one at a time, and hands signals on."""

  def __init__(
    self,
    workdir: str,
    wait: float,
    shared: Sequence[str] = (),
    training: Sequence[str] = (),
  ):
    """Takes how stages are run.

    Args:
      workdir: of all stages.
      wait: seconds, for the data of other processes.
      shared: flags for all commands.
      training: flags for `ttt_jax.train` alone.
    """
    self._workdir, self._wait = workdir, wait
    self._shared = [f'--workdir={workdir}', *shared]
    self._training = training
    self._child: subprocess.Popen[bytes] | None = None
    self._stopped: signal.Signals | None = None

  def run(self, stages: Sequence[chain.Stage]) -> int:
    """Brings all stages to their end; returns the exit status."""
    before = {
      s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)
    }
    try:
      for stage in stages:
        if status := self._stage(stage):
          return status
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)
    print(f'all stages are finished: {", ".join(s.name for s in stages)}')
    return 0

  def commands(self, stage: chain.Stage) -> list[list[str]]:
    """What is still to be run for a stage."""
    if chain.step_of(stage, self._workdir) >= stage.steps:
      return []
    train = stage.command('ttt_jax.train', *self._shared, *self._training)
    if chain.has_data(stage):
      return [train]
    return [stage.command('ttt_jax.precompute', *self._shared), train]

  def plan(self, stage: chain.Stage) -> list[str]:
    """Lines that say what is there of a stage, and what would be run."""
    data = 'is there' if chain.has_data(stage) else 'is missing'
    return [
      f'# {stage.name}: step {chain.step_of(stage, self._workdir)} of'
      f' {stage.steps} is saved; data set in {stage.data} {data}',
      *map(shlex.join, self.commands(stage)),
    ]

  def _stage(self, stage: chain.Stage) -> int:
    todo = self.commands(stage)
    if not todo:
      print(f'{stage.name}: finished, step {stage.steps} is saved', flush=True)
    for command in todo:
      print(f'{stage.name}: {shlex.join(command)}', flush=True)
      status = self._call(command)
      if self._stopped is not None:
        return self._again(stage)
      if status:
        print(
          f'error: {command[2]} of stage {stage.name} ended with status'
          f' {status}; start the same command again once it is mended',
          file=sys.stderr,
        )
        return status
      if not self._wait_until(lambda: chain.has_data(stage), self._wait):
        print(
          f'error: {stage.data} has no manifest.json; the other processes'
          f' have not done their part within {self._wait / 60:g} minutes'
          ' (--wait_minutes)',
          file=sys.stderr,
        )
        return 1
    done = lambda: chain.step_of(stage, self._workdir) >= stage.steps
    # Training ends well before its last step where another process was told
    # to stop.
    if not self._wait_until(done, _SETTLE_SECONDS):
      return self._again(stage)
    return 0

  def _call(self, command: Sequence[str]) -> int:
    """Exit status of a command; that of a signal as shells have it."""
    if self._stopped is not None:
      return commands.AGAIN
    with subprocess.Popen(command) as self._child:
      if self._stopped is not None:  # While it was started.
        self._child.terminate()
      status = self._child.wait()
    self._child = None
    return status if status >= 0 else 128 - status

  def _again(self, stage: chain.Stage) -> int:
    name = self._stopped.name if self._stopped else 'another process'
    step = chain.step_of(stage, self._workdir)
    print(
      f'{stage.name}: stopped by {name} at step {step} of {stage.steps};'
      ' start the same command again to go on',
      flush=True,
    )
    return commands.AGAIN

  def _wait_until(self, ready, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not ready():
      if time.monotonic() >= deadline or self._stopped is not None:
        return False
      time.sleep(1)
    return True

  def _note(self, number: int, _) -> None:
    self._stopped = signal.Signals(number)
    # Ctrl-C reaches the child by itself.
    if self._child is not None and number == signal.SIGTERM:
      self._child.send_signal(number)


def environment(chip: str | None, workdir: str) -> dict[str, str]:
  """Variables to set for all commands of a chain."""
  # One cache for training, whose own this is, and precompute.
  cache = 'JAX_COMPILATION_CACHE_DIR'
  chosen = {cache: os.environ.get(cache, f'{workdir}/compilation_cache')}
  if chip:
    chosen |= xla_flags.environment(chip, os.environ)
  return chosen


def define_flags() -> None:
  """The flags of this command."""
  config_flags.DEFINE_config_file('config', None, 'Of the last stage.')
  flags.DEFINE_string('workdir', None, 'Folder of all stages.')
  flags.DEFINE_enum(
    'chip', None, list(xla_flags.SETTINGS), 'Whose compiler flags to set.'
  )
  flags.DEFINE_string('profile_steps', '', 'As of `ttt_jax.train`.')
  flags.DEFINE_integer(
    'wait_minutes', 120, 'For the data of other processes.', lower_bound=0
  )
  commands.define_dry_run()


def main(argv: Sequence[str]) -> int:
  """Entry point."""
  del argv
  values = flags.FLAGS
  if values.config is None or not values.workdir:
    raise ValueError(
      '--config and --workdir are needed, for example'
      ' --config=configs/ttt_video.py:63s --workdir=run'
    )
  workdir = values.workdir.rstrip('/')
  flag = values['config']
  stages = chain.stages_to(
    config_flags.get_config_filename(flag),
    config_flags.get_override_values(flag),
    workdir,
  )

  def given(names):
    return [values[n].serialize() for n in names if values[n].present]

  runner = Runner(
    workdir, 60 * values.wait_minutes, given(_PROCESSES), given(_TRAINING)
  )
  variables = environment(values.chip, workdir)
  for name, value in variables.items():
    print(f'export {name}={shlex.quote(value)}')
  if values.dry_run:
    for line in (line for stage in stages for line in runner.plan(stage)):
      print(line)
    return 0
  os.environ.update(variables)
  return runner.run(stages)


if __name__ == '__main__':
  define_flags()
  cli.run(main)
