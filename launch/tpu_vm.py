"""Rents a TPU slice as TPU VMs, runs the stages on all its workers.

    python -m launch.tpu_vm --action=create --name=my-run --zone=us-east5-a \\
        --topology=v5p:4x8x8 [--spot]
    python -m launch.tpu_vm --action=install ... [--fetch=gs://BUCKET/FOLDER]
    python -m launch.tpu_vm --action=run ... -- \\
        --config=configs/ttt_video.py:63s --workdir=gs://BUCKET/run \\
        --config.mesh.data=64 --config.mesh.sp=4

and then status, follow, logs, stop, delete. What stands behind -- goes to
`launch.stages`. `--dry_run` prints the commands. Needs gcloud and git.
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
_WORKER = 'ttt_jax/launch/worker.sh'
_LOG = 'ttt_jax/run.log'
_TPUS = ('gcloud', 'compute', 'tpus')
Command = commands.Command


class Slice:
  """The commands for one slice of TPU VMs."""

  def __init__(
    self, name: str, zone: str, topology: str, project: str | None = None
  ):
    """Checks all four; raises ValueError."""
    self._name = commands.check_name('name', name)
    self._rented = cloud.slice_of(topology)
    self._where = (f'--zone={cloud.check_zone(zone, self._rented.kind)}',)
    if project:
      self._where += (f'--project={project}',)

  def create(
    self, spot: bool, reserved: bool, runtime: str | None
  ) -> list[Command]:
    """Asks for the slice; it comes when there is room."""
    words = (
      *_TPUS,
      'queued-resources',
      'create',
      self._name,
      f'--node-id={self._name}',
      *self._where,
      f'--accelerator-type={self._rented.accelerator_type}',
      f'--runtime-version={runtime or self._rented.kind.runtime}',
      *['--spot'] * spot,
      *['--reserved'] * reserved,
    )
    return [Command(words, f'ask for {self._rented.chips} chips')]

  def install(self, fetch: Sequence[str]) -> list[Command]:
    """Brings the committed code and its environment to all workers."""
    for source in fetch:
      if not source.startswith('gs://'):
        raise ValueError(
          f'--fetch {source!r} is no gs:// path, like gs://BUCKET/FOLDER'
        )
    archive = (
      'git',
      'archive',
      '--format=tar.gz',
      '--prefix=ttt_jax/',
      f'--output={_ARCHIVE}',
      'HEAD',
    )
    copy = (
      *_TPUS,
      'tpu-vm',
      'scp',
      _ARCHIVE,
      f'{self._name}:',
      '--worker=all',
      *self._where,
    )
    unpack = shlex.join(['tar', '-xzf', _ARCHIVE])
    install = shlex.join(['bash', _WORKER, 'install', *fetch])
    return [
      Command(archive, 'pack what is committed'),
      Command(copy, 'copy it to all workers'),
      self._ssh(f'{unpack} && {install}', 'unpack and install'),
    ]

  def run(self, words: Sequence[str]) -> list[Command]:
    """Starts the stages on all workers and comes back."""
    stages = commands.stages(
      words,
      chip=self._rented.chip,
      devices=self._rented.chips,
      python='.venv/bin/python',
    )
    commands.check_shared_workdir(words, self._rented.workers)
    start = shlex.join(['bash', _WORKER, 'start', *stages])
    return [self._ssh(start, 'start the stages on all workers')]

  def status(self) -> list[Command]:
    """Of the slice, and of the stages on all workers."""
    state = (
      *_TPUS,
      'queued-resources',
      'describe',
      self._name,
      *self._where,
      '--format=value(state.state)',
    )
    return [
      Command(state, 'ACTIVE: it is yours; SUSPENDED: it was taken'),
      self._ssh(f'bash {_WORKER} state', 'what the workers do'),
    ]

  def follow(self) -> list[Command]:
    """The log of the first worker, as it grows."""
    return [self._ssh(f'tail -n 50 -F {_LOG}', 'Ctrl-C ends this', '0')]

  def logs(self, folder: str) -> list[Command]:
    """All logs, a file a worker."""
    return [
      Command(('mkdir', '-p', folder), 'a folder here'),
      self._ssh(
        f'cat {_LOG}',
        'a file for each worker',
        'all',
        f'--output-directory={folder}',
      ),
    ]

  def stop(self) -> list[Command]:
    """Asks the stages to save and end."""
    return [self._ssh(f'bash {_WORKER} stop', 'save and end')]

  def delete(self) -> list[Command]:
    """Gives the slice back; nothing is paid for it any more."""
    words = (
      *_TPUS,
      'queued-resources',
      'delete',
      self._name,
      *self._where,
      '--force',
      '--quiet',
    )
    return [Command(words, 'give the slice back')]

  def _ssh(
    self, command: str, why: str, worker: str = 'all', *more: str
  ) -> Command:
    words = (
      *_TPUS,
      'tpu-vm',
      'ssh',
      self._name,
      *self._where,
      f'--worker={worker}',
      f'--command={command}',
      *more,
    )
    return Command(words, why)


def define_flags() -> None:
  """The flags of this command."""
  flags.DEFINE_enum('action', None, ACTIONS, 'What to do.')
  flags.DEFINE_string('name', None, 'Of the slice; you choose it.')
  flags.DEFINE_string('zone', None, 'Such as us-east5-a.')
  flags.DEFINE_string('project', None, "Google's; default: gcloud's.")
  flags.DEFINE_string('topology', None, 'As of launch.plan, such as v5p:4x8x8.')
  flags.DEFINE_bool('spot', False, 'Cheap, may be taken at any moment.')
  flags.DEFINE_bool('reserved', False, 'From your reservation.')
  flags.DEFINE_string('runtime', None, 'Other software of the VMs.')
  flags.DEFINE_list(
    'fetch', [], 'gs:// files and folders to copy to every worker.'
  )
  flags.DEFINE_string('logs', 'logs', 'Folder here for fetched logs.')
  commands.define_dry_run()


def main(argv: Sequence[str]) -> int:
  """Entry point."""
  f = flags.FLAGS
  if f.action is None:
    raise ValueError(f'--action is missing; legal are {", ".join(ACTIONS)}')
  if argv[1:] and f.action != 'run':
    raise ValueError(f'unexpected argument {argv[1]!r}; see --help')
  if f.spot and f.reserved:
    raise ValueError('--spot and --reserved exclude each other')
  slice_ = Slice(f.name, f.zone, f.topology, f.project)
  todo: dict[str, Callable[[], list[Command]]] = dict(
    create=lambda: slice_.create(f.spot, f.reserved, f.runtime),
    install=lambda: slice_.install(f.fetch),
    run=lambda: slice_.run(argv[1:]),
    status=slice_.status,
    follow=slice_.follow,
    logs=lambda: slice_.logs(f.logs),
    stop=slice_.stop,
    delete=slice_.delete,
  )
  return commands.run(todo[f.action](), f.dry_run)


if __name__ == '__main__':
  define_flags()
  cli.run(main, arguments=True)
