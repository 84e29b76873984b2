"""Commands of other programs: checked, printed, run one after another.

Shared by the launchers. Each launcher builds its commands as lists of
arguments, so that `--dry_run` can print all of them without running any.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import re
import shlex
import signal
import subprocess
import sys

from absl import flags

# Flags that `define_flags` defines belong to the launcher that calls it.
flags.disclaim_key_flags()

_MESH = re.compile(r'--config\.mesh\.(data|sp)=(\d+)')


@dataclasses.dataclass(frozen=True)
class Command:
  """A command.

  Attributes:
    argv: program and arguments.
    purpose: effect of the command, in a few words.
    text: text that the program reads from its standard input, if any.
  """

  argv: tuple[str, ...]
  purpose: str
  text: str | None = None

  def __str__(self) -> str:
    """Returns lines that can be pasted into a shell."""
    line = f'# {self.purpose}\n{shlex.join(self.argv)}'
    if self.text is None:
      return line
    return f"{line} <<'END'\n{self.text}END"


@dataclasses.dataclass(frozen=True)
class Syntax:
  """Syntax of a value that another program receives.

  Attributes:
    regex: pattern of the complete value.
    rule: the pattern in words.
    example: a valid value.
  """

  regex: str
  rule: str
  example: str


# A label of RFC 1123, as Kubernetes and Google Cloud require. It starts with a
# letter and leaves room for what JobSet and XPK append.
NAME = Syntax(
  r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?',
  'up to 40 lower-case letters, digits and -, a letter first',
  'my-run',
)
PROJECT = Syntax(
  r'([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z]+)+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]',
  '6 to 30 lower-case letters, digits and -, a letter first',
  'my-project',
)
# Google reserves its own name, and a bucket must not look like an address.
BUCKET = Syntax(
  r'(?!goog|.*google|(\d+\.){3}\d+$)(?=.{3,222}$)'
  r'[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?)*',
  'a bare name of 3 to 63 lower-case letters, digits, -, _ and .',
  'my-bucket',
)
_IMAGE_PART = r'[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*'
IMAGE = Syntax(
  r'(?=.{1,255}(:|@|$))'
  r'([a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:\d{1,5})?/)?'
  rf'{_IMAGE_PART}(/{_IMAGE_PART})*'
  r'(:\w[-\w.]{0,127})?(@sha256:[0-9a-f]{64})?',
  'HOST/PROJECT/REPOSITORY/IMAGE:TAG',
  'us-docker.pkg.dev/my-project/my-repo/ttt_jax:1',
)
# A subdomain of RFC 1123.
SERVICE_ACCOUNT = Syntax(
  r'(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?'
  r'(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*',
  'lower-case letters, digits, - and ., a letter or digit first and last',
  'default',
)
RESERVATION = Syntax(
  r'(projects/[-a-z0-9.:]+/reservations/)?[a-z]([-a-z0-9]{0,61}[a-z0-9])?',
  'NAME or projects/PROJECT/reservations/NAME',
  'my-reservation',
)
RUNTIME = Syntax(
  r'[a-z0-9][-.a-z0-9]{0,62}',
  'lower-case letters, digits, - and .',
  'v2-alpha-tpuv5',
)
SLURM_NAME = Syntax(
  r'\w[-\w.]{0,62}(,\w[-\w.]{0,62})*',
  'letters, digits, _, - and ., several names with commas',
  'gpu',
)
# Minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS.
SLURM_TIME = Syntax(
  r'\d{1,6}(:[0-5]?\d){0,2}|\d{1,4}-([01]?\d|2[0-3])(:[0-5]?\d){0,2}',
  '[DAYS-]HH:MM:SS, or minutes',
  '24:00:00',
)


def check(flag: str, value: str | None, syntax: Syntax) -> str:
  """Returns the value of a flag; raises ValueError if it is not valid."""
  if not value:
    raise ValueError(
      f'--{flag} is missing, for example --{flag}={syntax.example}'
    )
  if len(value) > 512 or not re.fullmatch(syntax.regex, value, re.ASCII):
    raise ValueError(
      f'--{flag} is {value[:80]!r}; expected {syntax.rule}, for example'
      f' {syntax.example}'
    )
  return value


def define_flags(*names: str) -> None:
  """Defines flags that have one meaning in all launchers, and --dry_run."""
  texts = dict(
    name='Name of the run, of your choice.',
    zone='Zone of Google Cloud, such as us-east5-a.',
    project='Project of Google Cloud.',
    topology='Name of the TPU slice, such as v5p:8x8x4.',
  )
  for name in names:
    flags.DEFINE_string(name, None, texts[name])
  flags.DEFINE_bool(
    'dry_run', False, 'Printed preview of the run, without running it.'
  )


def define_budget_flags() -> None:
  """Defines --check and --write of a command that has a budget."""
  flags.DEFINE_bool(
    'check', False, 'Comparison of the results with the budget.'
  )
  flags.DEFINE_bool('write', False, 'Replacement of the budget by the results.')


def check_action(
  action: str | None, actions: Sequence[str], arguments: Sequence[str]
) -> str:
  """Returns the value of --action; raises ValueError if it cannot be done."""
  if action is None:
    raise ValueError(
      f'--action is missing; expected one of {", ".join(actions)}'
    )
  if arguments and action != 'run':
    raise ValueError(f'unexpected argument {arguments[0]!r}; see --help')
  return action


def run(commands: Sequence[Command], dry_run: bool) -> int:
  """Prints commands and runs them until one fails; returns its exit status.

  Args:
    commands: the commands, in order.
    dry_run: whether to print them only.

  Raises:
    FileNotFoundError: a program is not installed.
  """
  for command in commands:
    print(command, flush=True)
    if dry_run:
      continue
    try:
      status = subprocess.run(
        command.argv, check=False, input=command.text, encoding='utf-8'
      ).returncode
    except KeyboardInterrupt:  # How a user stops following a log.
      return 128 + signal.SIGINT
    except FileNotFoundError as e:
      raise FileNotFoundError(
        f'{command.argv[0]} is not installed; see docs/pods.md for what each'
        ' launcher needs, or use --dry_run, which needs nothing'
      ) from e
    if status:
      print(
        f'error: {command.argv[0]} exited with status {status}', file=sys.stderr
      )
      return status
  return 0


def stages_command(
  stage_flags: Sequence[str],
  *,
  chip: str,
  devices: int,
  hosts: int,
  python: str = 'python',
) -> tuple[str, ...]:
  """Returns the command that every process of a job runs.

  Args:
    stage_flags: flags of `launch.stages`, which the user wrote after `--`.
    chip: key of `xla_flags.FLAGS`.
    devices: chips of the job; the mesh must use all of them.
    hosts: machines of the job; all must see the workdir.
    python: interpreter on the hosts.

  Raises:
    ValueError: a flag is missing, the mesh has another number of devices, or
      the workdir is on a local disk.
  """
  for flag, example in (
    ('--config=', '--config=configs/ttt_video.py:63s'),
    ('--workdir=', '--workdir=gs://BUCKET/run'),
  ):
    if not any(word.startswith(flag) for word in stage_flags):
      raise ValueError(
        f'{flag.rstrip("=")} is missing; write the flags of the stages after'
        f' --, for example: -- {example}'
      )
  matches = map(_MESH.fullmatch, stage_flags)
  mesh = {match[1]: int(match[2]) for match in matches if match}
  data, sp = mesh.get('data', 1), mesh.get('sp', 1)
  if data * sp != devices:
    raise ValueError(
      f'the mesh data {data} x sp {sp} covers {data * sp} devices of'
      f' {devices}; add --config.mesh.data=N --config.mesh.sp=M with N x M ='
      f' {devices} after --; python -m launch.plan --sweep lists valid meshes'
    )
  workdirs = [w for w in stage_flags if w.startswith('--workdir=')]
  workdir = workdirs[-1].partition('=')[2]
  if hosts > 1 and not workdir.startswith(('gs://', '/')):
    raise ValueError(
      f'--workdir={workdir} is on the local disk of one host, and there are'
      f' {hosts} hosts; use gs://BUCKET/FOLDER or an absolute path on a shared'
      ' file system'
    )
  return (python, '-m', 'launch.stages', f'--chip={chip}', *stage_flags)
