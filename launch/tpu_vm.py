"""Rents a TPU slice as TPU VMs and runs the stages on all its workers.

    python -m launch.tpu_vm --action=create --name=my-run --zone=us-east5-a \\
        --topology=v5p:8x8x4 [--spot]
    python -m launch.tpu_vm --action=install ... [--fetch=gs://BUCKET/FOLDER]
    python -m launch.tpu_vm --action=run ... -- \\
        --config=configs/ttt_video.py:63s --workdir=gs://BUCKET/run \\
        --config.mesh.data=64 --config.mesh.sp=4

followed by status, follow, logs, stop, delete. Flags after -- are those of
`launch.stages`. `--dry_run` prints the commands. Requires gcloud and git.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import shlex

from absl import flags

from launch import cloud
from launch import commands
from ttt_jax.runtime import cli

ACTIONS = (
  'create',
  'install',
  'run',
  'status',
  'follow',
  'logs',
  'stop',
  'delete',
)
_ARCHIVE = 'ttt_jax.tar.gz'
# Paths on a worker, whose clone is in the home directory. Commands of the
# stages run in the clone, from which `launch` and `configs` are imported.
_WORKER = 'ttt_jax/launch/worker.sh'
_LOG = 'ttt_jax/run.log'
_TPUS = ('gcloud', 'compute', 'tpus')
Command = commands.Command


class TpuVms:
  """Builds the commands for one slice of TPU VMs."""

  def __init__(
    self,
    name: str | None,
    zone: str | None,
    topology: str | None,
    project: str | None = None,
  ):
    """Checks the arguments.

    Args:
      name: name of the run and of the slice.
      zone: zone of Google Cloud.
      topology: name of the slice in `launch.topology`.
      project: project of Google Cloud; None for gcloud's default.

    Raises:
      ValueError: an argument is missing or not valid.
    """
    self._name = commands.check('name', name, commands.NAME)
    self._slice = cloud.find_slice(topology)
    zone = cloud.check_zone(zone, self._slice.tpu_type)
    self._location: tuple[str, ...] = (f'--zone={zone}',)
    if project:
      commands.check('project', project, commands.PROJECT)
      self._location += (f'--project={project}',)

  def create(
    self, spot: bool, reserved: bool, runtime: str | None
  ) -> list[Command]:
    """Requests the slice, which is granted when there is capacity."""
    if spot and reserved:
      raise ValueError('--spot and --reserved exclude each other')
    runtime = runtime or self._slice.tpu_type.runtime
    commands.check('runtime', runtime, commands.RUNTIME)
    queued = self._queued(
      'create',
      f'--node-id={self._name}',
      f'--accelerator-type={self._slice.accelerator_type}',
      f'--runtime-version={runtime}',
      *['--spot'] * spot,
      *['--reserved'] * reserved,
    )
    return [Command(queued, f'request {self._slice.chips} chips')]

  def install(self, sources: Sequence[str]) -> list[Command]:
    """Copies the committed code to all workers and installs it there."""
    for source in sources:
      if not source.startswith('gs://'):
        raise ValueError(
          f'--fetch {source!r} is not a gs:// path such as gs://BUCKET/FOLDER'
        )
    archive = (
      *('git', 'archive', '--format=tar.gz'),
      '--prefix=ttt_jax/',
      f'--output={_ARCHIVE}',
      'HEAD',
    )
    copy = (
      *(*_TPUS, 'tpu-vm', 'scp', _ARCHIVE),
      f'{self._name}:',
      '--worker=all',
      *self._location,
    )
    unpack = shlex.join(['tar', '-xzf', _ARCHIVE])
    install = shlex.join(['bash', _WORKER, 'install', *sources])
    return [
      Command(archive, 'pack the committed files'),
      Command(copy, 'copy them to all workers'),
      self._ssh(f'{unpack} && {install}', 'unpack and install'),
    ]

  def run(self, stage_flags: Sequence[str]) -> list[Command]:
    """Starts the stages on all workers, in the background."""
    stages = commands.stages_command(
      stage_flags,
      chip=self._slice.chip,
      devices=self._slice.chips,
      hosts=self._slice.workers,
      python='.venv/bin/python',
    )
    start = shlex.join(['bash', _WORKER, 'start', *stages])
    return [self._ssh(start, 'start the stages on all workers')]

  def status(self) -> list[Command]:
    """Shows the state of the slice and of the stages on all workers."""
    state = self._queued('describe', '--format=value(state.state)')
    return [
      Command(state, 'show the slice: ACTIVE once granted, SUSPENDED if taken'),
      self._ssh(f'bash {_WORKER} state', 'show the state of all workers'),
    ]

  def follow(self) -> list[Command]:
    """Shows the first worker's log as it grows."""
    return [
      self._ssh(
        f'tail -n 50 -F {_LOG}', "show the first worker's log until Ctrl-C", '0'
      )
    ]

  def logs(self, folder: str) -> list[Command]:
    """Copies all logs, one file per worker."""
    return [
      Command(('mkdir', '-p', '--', folder), 'create a local folder'),
      self._ssh(
        f'cat {_LOG}',
        'save one log per worker',
        'all',
        f'--output-directory={folder}',
      ),
    ]

  def stop(self) -> list[Command]:
    """Returns the command that makes the stages save and stop."""
    return [self._ssh(f'bash {_WORKER} stop', 'save and stop')]

  def delete(self) -> list[Command]:
    """Returns the command that deletes the slice, which ends its costs."""
    queued = self._queued('delete', '--force', '--quiet')
    return [Command(queued, 'delete the slice, which ends its costs')]

  def _queued(self, action: str, *options: str) -> tuple[str, ...]:
    """Returns a command on the queued resource that holds the slice."""
    queued = (*_TPUS, 'queued-resources', action, self._name)
    return (*queued, *self._location, *options)

  def _ssh(
    self, command: str, purpose: str, worker: str = 'all', *options: str
  ) -> Command:
    """Returns a command that runs a shell command on workers."""
    ssh = (*_TPUS, 'tpu-vm', 'ssh', self._name, *self._location)
    where = (f'--worker={worker}', f'--command={command}')
    return Command((*ssh, *where, *options), purpose)


def define_flags() -> None:
  """Defines the flags of this command."""
  flags.DEFINE_enum('action', None, ACTIONS, 'Action to perform.')
  commands.define_flags('name', 'zone', 'project', 'topology')
  flags.DEFINE_bool('spot', False, 'Spot capacity, which can be taken away.')
  flags.DEFINE_bool('reserved', False, 'Capacity of your reservation.')
  flags.DEFINE_string('runtime', None, 'Software version of the TPU VMs.')
  flags.DEFINE_list('fetch', [], 'gs:// paths to copy to every worker.')
  flags.DEFINE_string('logs', 'logs', 'Local folder for the logs.')


def main(argv: Sequence[str]) -> int:
  """Runs the commands of --action, or prints them with --dry_run."""
  options = flags.FLAGS
  action = commands.check_action(options.action, ACTIONS, argv[1:])
  vms = TpuVms(options.name, options.zone, options.topology, options.project)
  actions: dict[str, Callable[[], list[Command]]] = dict(
    create=lambda: vms.create(options.spot, options.reserved, options.runtime),
    install=lambda: vms.install(options.fetch),
    run=lambda: vms.run(argv[1:]),
    status=vms.status,
    follow=vms.follow,
    logs=lambda: vms.logs(options.logs),
    stop=vms.stop,
    delete=vms.delete,
  )
  return commands.run(actions[action](), options.dry_run)


if __name__ == '__main__':
  define_flags()
  cli.run(main, arguments=True)
