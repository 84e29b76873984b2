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

Exit status: 0 all is finished; 75 stopped by a signal and saved, start again;
otherwise that of the command that failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import Any

from absl import flags
from etils import epath
from ml_collections import config_flags

from launch import commands
from launch import xla_flags
from ttt_jax import cli
from ttt_jax.train import saved

_PROCESSES = ('coordinator', 'num_processes', 'process_id', 'distributed',
              'connect_timeout', 'heartbeat_timeout')  # pyformat: disable
_FIRST_ONLY = 'init_from'
# Writes of one host may show on another a little later.
_SETTLE_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage of a chain.

  Attributes:
    name: its folder in the workdir.
    config: as `--config` takes it, FILE:ARGUMENT.
    steps: after which it is finished.
    data: folder of its data set.
    overrides: values of the config set by hand.
  """

  name: str
  config: str
  steps: int
  data: str
  overrides: Mapping[str, Any]

  def command(self, module: str, *words: str) -> list[str]:
    """`python -m MODULE` for this stage."""
    values = [f'--config.{k}={v}' for k, v in self.overrides.items()]
    return [
        sys.executable, '-m', module, f'--config={self.config}', *values, *words
    ]  # pyformat: disable


def chain(
    config: str, overrides: Mapping[str, Any], workdir: str
) -> list[Stage]:
  """The stages that lead to the one of `config`, in order.

  Args:
    config: FILE:ARGUMENT of the last stage.
    overrides: values of the config set by hand.
    workdir: of all stages.

  Raises:
    ValueError: a stage before cannot be named.
  """
  path, _, argument = config.partition(':')
  spec = importlib.util.spec_from_file_location('stages_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  found = []
  while True:
    values = module.get_config(argument)
    first = not values.previous_stage
    kept = {k: v for k, v in overrides.items() if first or k != _FIRST_ONLY}
    values.update_from_flattened_dict(kept)
    found.append(
        Stage(
            name=values.stage,
            config=f'{path}:{argument}' if argument else path,
            steps=values.steps,
            data=values.data.folder.replace('{workdir}', workdir),
            overrides=kept,
        )
    )
    if first:
      return found[::-1]
    argument = _before(path, argument, values)


def _before(path: str, argument: str, config: Any) -> str:
  """The argument of a config file for the stage before that of `argument`.

  A part of the argument names the stage; the stage's folder may add to it.
  """
  parts = argument.split(',')
  for i, part in enumerate(parts):
    prefix = config.stage.removesuffix(part)
    if part and prefix != config.stage and (
        config.previous_stage.startswith(prefix)
    ):
      before = config.previous_stage.removeprefix(prefix)
      return ','.join([*parts[:i], before, *parts[i + 1:]])
  raise ValueError(
      f'{config.stage} starts from {config.previous_stage}, but nothing in'
      f' --config={path}{argument and ":"}{argument} names the stage; write it'
      ' behind the file, as in configs/ttt_video.py:63s'
  )


def step_of(stage: Stage, workdir: str) -> int:
  """The newest whole step of a stage; 0 where nothing is saved."""
  return max(saved.steps(epath.Path(workdir) / stage.name), default=0)


def has_data(stage: Stage) -> bool:
  """Whether the data set is whole: its manifest is written last."""
  return (epath.Path(stage.data) / 'manifest.json').exists()


class Chain:
  """Runs stages as processes, one at a time, and hands signals on."""

  def __init__(self, workdir: str, processes: Sequence[str], wait: float):
    """Takes the workdir, flags that name processes, and seconds to wait."""
    self._workdir, self._processes, self._wait = workdir, processes, wait
    self._child: subprocess.Popen[bytes] | None = None
    self._stopped: signal.Signals | None = None

  def run(self, stages: Sequence[Stage]) -> int:
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

  def commands(self, stage: Stage) -> list[list[str]]:
    """What is still to be run for a stage."""
    if step_of(stage, self._workdir) >= stage.steps:
      return []
    where = f'--workdir={self._workdir}'
    modules = ['ttt_jax.precompute'] * (not has_data(stage)) + ['ttt_jax.train']
    return [stage.command(m, where, *self._processes) for m in modules]

  def plan(self, stage: Stage) -> list[str]:
    """Lines that say what is there of a stage, and what would be run."""
    data = 'is there' if has_data(stage) else 'is missing'
    return [
        f'# {stage.name}: step {step_of(stage, self._workdir)} of'
        f' {stage.steps} is saved; data set in {stage.data} {data}',
        *map(shlex.join, self.commands(stage)),
    ]

  def _stage(self, stage: Stage) -> int:
    todo = self.commands(stage)
    if not todo:
      print(f'{stage.name}: finished, step {stage.steps} is saved', flush=True)
    for command in todo:
      print(f'{stage.name}: {shlex.join(command)}', flush=True)
      status = self._call(command)
      if self._stopped is not None:
        return self._again(stage)
      if status:
        print(f'error: {command[2]} of stage {stage.name} ended with status'
              f' {status}; start the same command again once it is mended',
              file=sys.stderr)  # pyformat: disable
        return status
      if not self._wait_until(lambda: has_data(stage), self._wait):
        print(f'error: {stage.data} has no manifest.json; the other processes'
              f' have not done their part within {self._wait / 60:g} minutes'
              ' (--wait_minutes)', file=sys.stderr)  # pyformat: disable
        return 1
    done = lambda: step_of(stage, self._workdir) >= stage.steps
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
      status = self._child.wait()
    self._child = None
    return status if status >= 0 else 128 - status

  def _again(self, stage: Stage) -> int:
    name = self._stopped.name if self._stopped else 'another process'
    print(f'{stage.name}: stopped by {name} at step'
          f' {step_of(stage, self._workdir)} of {stage.steps}; start the same'
          ' command again to go on', flush=True)  # pyformat: disable
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
  cache = 'JAX_COMPILATION_CACHE_DIR'
  chosen = {cache: os.environ.get(cache, f'{workdir}/jax_cache')}
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
  stages = chain(
      config_flags.get_config_filename(flag),
      config_flags.get_override_values(flag),
      workdir,
  )
  given = [values[name] for name in _PROCESSES]
  processes = [f.serialize() for f in given if f.present]
  runner = Chain(workdir, processes, 60 * values.wait_minutes)
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
