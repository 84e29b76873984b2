"""Queues the stages on the GPUs of a Slurm cluster.

    python -m launch.slurm --name=my-run --nodes=4 --gpus_per_node=8 \\
        --time=24:00:00 [--partition=P] [--account=A] \\
        [--sbatch=--qos=high --sbatch=--gres=gpu:a100:8] -- \\
        --config=configs/ttt_video.py:63s --workdir=/shared/run \\
        --config.mesh.data=8 --config.mesh.sp=4

Run it in a clone of the project that all nodes see, with its .venv. The job is
launch/slurm.sbatch; flags after -- are those of `launch.stages`. At the end of
its time limit, or pre-empted, the job saves, queues itself again, and resumes.
`--dry_run` prints the command. squeue and `tail -F my-run.log` show the job,
scancel stops it.
"""

from __future__ import annotations

from collections.abc import Sequence
import re

from absl import flags

from launch import commands
from ttt_jax.runtime import cli

_JOB = 'launch/slurm.sbatch'
_OPTION = re.compile(r'(--[a-z][-a-z0-9]*|-[a-zA-Z])(=?[ -~]+)?', re.ASCII)
# Options in place of --gpus-per-node, which Slurm refuses next to them.
_GPUS = ('--gres', '--gpus', '--gpus-per-node', '--gpus-per-task', '-G')


def submit(
  stage_flags: Sequence[str],
  *,
  name: str | None,
  nodes: int,
  gpus: int,
  time: str,
  partition: str | None = None,
  account: str | None = None,
  more: Sequence[str] = (),
) -> commands.Command:
  """Returns the command that queues a run.

  Args:
    stage_flags: flags of `launch.stages`.
    name: name of the job and of its log.
    nodes: number of machines.
    gpus: GPUs per machine.
    time: time limit in Slurm's notation.
    partition: Slurm partition; None for the default.
    account: Slurm account; None for the default.
    more: further options of sbatch, such as '--qos=high'. They win over the
      options above; one that names GPUs replaces --gpus-per-node.

  Raises:
    ValueError: a value is not valid.
  """
  name = commands.check('name', name, commands.NAME)
  for flag, value in (('nodes', nodes), ('gpus_per_node', gpus)):
    if value < 1:
      raise ValueError(f'--{flag} is {value}; it must be 1 or more')
  commands.check('time', time, commands.SLURM_TIME)
  for option in more:
    if not _OPTION.fullmatch(option):
      raise ValueError(
        f'--sbatch is {option[:80]!r}; expected one option of sbatch, for'
        ' example --sbatch=--qos=high'
      )
  if not any(option.partition('=')[0] in _GPUS for option in more):
    more = (f'--gpus-per-node={gpus}', *more)
  options = [
    f'--{flag}={commands.check(flag, value, commands.SLURM_NAME)}'
    for flag, value in (('partition', partition), ('account', account))
    if value
  ]
  # For its checks only: the job names interpreter and chip itself.
  commands.stages_command(
    stage_flags, chip='gpu', devices=nodes * gpus, hosts=nodes
  )
  return commands.Command(
    (
      'sbatch',
      f'--job-name={name}',
      f'--output={name}.log',
      f'--nodes={nodes}',
      f'--ntasks-per-node={gpus}',
      f'--time={time}',
      *options,
      *more,
      _JOB,
      *stage_flags,
    ),
    f'queue a job on {nodes * gpus} GPUs',
  )


def define_flags() -> None:
  """Defines the flags of this command."""
  commands.define_flags('name')
  flags.DEFINE_integer('nodes', 1, 'Number of machines.')
  flags.DEFINE_integer('gpus_per_node', 8, 'GPUs per machine, all of them.')
  flags.DEFINE_string('time', '24:00:00', 'Time limit, [DAYS-]HH:MM:SS.')
  flags.DEFINE_string('partition', None, 'Slurm partition.')
  flags.DEFINE_string('account', None, 'Slurm account.')
  flags.DEFINE_multi_string(
    'sbatch', [], 'Further option of sbatch; may be given several times.'
  )


def main(argv: Sequence[str]) -> int:
  """Queues the job, or prints the command with --dry_run."""
  options = flags.FLAGS
  command = submit(
    argv[1:],
    name=options.name,
    nodes=options.nodes,
    gpus=options.gpus_per_node,
    time=options.time,
    partition=options.partition,
    account=options.account,
    more=options.sbatch,
  )
  return commands.run([command], options.dry_run)


if __name__ == '__main__':
  define_flags()
  cli.run(main, arguments=True)
