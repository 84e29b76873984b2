"""Commands of other programs: shown, run one after another, checked before.

What the launchers share. Each builds its commands as plain lists, so that
`--dry_run` prints all of them and runs none.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import re
import shlex
import signal
import subprocess
import sys

from absl import flags

# Of a program that was stopped before its end and wants to be started again.
# JobSet, Slurm and XPK are told of it.
AGAIN = os.EX_TEMPFAIL

_NAME = re.compile(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?')
_MESH = re.compile(r'--config\.mesh\.(data|sp)=(\d+)')


@dataclasses.dataclass(frozen=True)
class Command:
  """One command.

  Attributes:
    words: program and arguments.
    why: what it does, in a few words.
  """

  words: tuple[str, ...]
  why: str


def define_dry_run() -> None:
  """The flag of all launchers."""
  flags.DEFINE_bool('dry_run', False, 'Print the commands, run none.')


def run(commands: Sequence[Command], dry_run: bool) -> int:
  """Shows commands and runs them until one fails; returns its exit status.

  Args:
    commands: in order.
    dry_run: only show them.

  Raises:
    FileNotFoundError: a program is not installed.
  """
  for command in commands:
    print(f'# {command.why}\n{shlex.join(command.words)}', flush=True)
    if dry_run:
      continue
    try:
      status = subprocess.run(command.words, check=False).returncode
    except KeyboardInterrupt:  # How one ends to follow a log.
      return 128 + signal.SIGINT
    except FileNotFoundError as e:
      raise FileNotFoundError(
        f'{command.words[0]} is not installed here; docs/pods.md says what'
        ' each launcher needs, --dry_run needs none'
      ) from e
    if status:
      print(
        f'error: {command.words[0]} ended with status {status}', file=sys.stderr
      )
      return status
  return 0


def check_name(flag: str, value: str | None) -> str:
  """A name as Google Cloud and Kubernetes want them; raises ValueError."""
  if not value:
    raise ValueError(f'--{flag} is missing, for example --{flag}=my-run')
  if not _NAME.fullmatch(value):
    raise ValueError(
      f'--{flag} is {value!r}; legal are up to 40 lower-case letters, digits'
      ' and -, a letter first, for example my-run'
    )
  return value


def stages(
  words: Sequence[str], *, chip: str, devices: int, python: str = 'python'
) -> tuple[str, ...]:
  """The command that every process of a job runs: the chain of stages.

  Args:
    words: what the user wrote behind `--`.
    chip: a kind of `xla_flags.SETTINGS`.
    devices: all chips of the job; the mesh must take them all.
    python: the interpreter there.

  Raises:
    ValueError: something is missing, or the mesh is not that of the devices.
  """
  for flag, example in (
    ('--config=', '--config=configs/ttt_video.py:63s'),
    ('--workdir=', '--workdir=gs://BUCKET/run'),
  ):
    if not any(word.startswith(flag) for word in words):
      raise ValueError(
        f'{flag.rstrip("=")} is missing; put what the stages need behind --,'
        f' for example: -- {example}'
      )
  mesh = dict(found.groups() for found in map(_MESH.fullmatch, words) if found)
  data, sp = int(mesh.get('data', 1)), int(mesh.get('sp', 1))
  if data * sp != devices:
    raise ValueError(
      f'the mesh data {data} x sp {sp} covers {data * sp} devices of'
      f' {devices}; add --config.mesh.data=N --config.mesh.sp=M with N x M ='
      f' {devices} behind --, python -m launch.plan tells which fit'
    )
  return (python, '-m', 'launch.stages', f'--chip={chip}', *words)


def check_shared_workdir(words: Sequence[str], hosts: int) -> None:
  """Raises ValueError for a workdir that only one of several hosts sees."""
  given = [w for w in words if w.startswith('--workdir=')]
  workdir = given[-1].partition('=')[2]
  if hosts > 1 and not workdir.startswith(('gs://', '/')):
    raise ValueError(
      f"--workdir={workdir} lies on one host's own disk, and there are"
      f' {hosts} hosts; use gs://BUCKET/FOLDER or the absolute path of a'
      ' file system that all of them see'
    )
