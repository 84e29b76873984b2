"""Queues the stages on the GPUs of a Slurm cluster.

    python -m launch.slurm --name=my-run --nodes=4 --gpus_per_node=8 \\
        --time=24:00:00 [--partition=P] [--account=A] -- \\
        --config=configs/ttt_video.py:63s --workdir=/shared/run \\
        --config.mesh.data=8 --config.mesh.sp=4

Call it in the project's folder, which all nodes must see, with its .venv. The
job is launch/slurm.sbatch; what stands behind -- goes to `launch.stages`. At
the end of its time, or pre-empted, it saves, queues itself again and goes on.
`--dry_run` prints the command. Watch it by squeue and `tail -F my-run.log`,
stop it by scancel.
"""

from __future__ import annotations

from collections.abc import Sequence
import re

from absl import flags

from launch import commands
from ttt_jax.runtime import cli

_TIME_FORM = re.compile(r'(\d+-)?\d{1,2}:\d\d:\d\d')
_JOB = 'launch/slurm.sbatch'


def submit(
  words: Sequence[str],
  *,
  name: str,
  nodes: int,
  gpus: int,
  time: str,
  partition: str | None = None,
  account: str | None = None,
) -> commands.Command:
  """The command that queues a run.

  Args:
    words: behind `--`, for `launch.stages`.
    name: of the job and its log.
    nodes: machines.
    gpus: of each.
    time: limit, as Slurm writes it.
    partition: of Slurm.
    account: of Slurm.

  Raises:
    ValueError: a value that cannot work.
  """
  commands.check_name('name', name)
  for flag, value in (('nodes', nodes), ('gpus_per_node', gpus)):
    if value < 1:
      raise ValueError(f'--{flag} is {value}; it must be 1 or more')
  if not _TIME_FORM.fullmatch(time):
    raise ValueError(
      f'--time is {time!r}; Slurm wants [DAYS-]HH:MM:SS, for example 24:00:00'
    )
  # Checks them; the job names interpreter and chip itself.
  commands.stages(words, chip='gpu', devices=nodes * gpus)
  commands.check_shared_workdir(words, nodes)
  return commands.Command(
    (
      'sbatch',
      f'--job-name={name}',
      f'--output={name}.log',
      f'--nodes={nodes}',
      f'--ntasks-per-node={gpus}',
      f'--gpus-per-node={gpus}',
      f'--time={time}',
      *[f'--partition={partition}'] * bool(partition),
      *[f'--account={account}'] * bool(account),
      _JOB,
      *words,
    ),
    f'queue {nodes * gpus} GPUs',
  )


def define_flags() -> None:
  """The flags of this command."""
  flags.DEFINE_string('name', None, 'Of the job; you choose it.')
  flags.DEFINE_integer('nodes', 1, 'Machines.')
  flags.DEFINE_integer('gpus_per_node', 8, 'Of each machine, all.')
  flags.DEFINE_string('time', '24:00:00', 'Limit: [DAYS-]HH:MM:SS.')
  flags.DEFINE_string('partition', None, "Slurm's.")
  flags.DEFINE_string('account', None, "Slurm's.")
  commands.define_dry_run()


def main(argv: Sequence[str]) -> int:
  """Entry point."""
  f = flags.FLAGS
  command = submit(
    argv[1:],
    name=f.name,
    nodes=f.nodes,
    gpus=f.gpus_per_node,
    time=f.time,
    partition=f.partition,
    account=f.account,
  )
  return commands.run([command], f.dry_run)


if __name__ == '__main__':
  define_flags()
  cli.run(main, arguments=True)
