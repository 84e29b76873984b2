"""How processes connect, and the messages if they cannot."""

import os
import pathlib
import socket
import subprocess
import sys

from absl import flags
from absl.testing import flagsaver
import jax
import pytest

from ttt_jax.runtime import compilation
from ttt_jax.runtime import distributed

ROOT = pathlib.Path(__file__).resolve().parents[2]

CLUSTERS = (
  *('SLURM_', 'OMPI_', 'KUBERNETES_', 'TPU_', 'MEGASCALE_', 'JOB_COMPLETION'),
  *('JAX_COORD', 'JAX_NUM', 'JAX_PROCESS'),
)
SLURM = dict(
  SLURM_JOB_ID='7',
  SLURM_STEP_NODELIST='n1',
  SLURM_PROCID='0',
  SLURM_LOCALID='0',
)


@pytest.fixture(autouse=True)
def parsed(monkeypatch):
  """Sets flags to their defaults and removes the variables of a cluster."""
  flags.FLAGS.mark_as_parsed()
  for name in list(os.environ):
    if name.startswith(CLUSTERS):
      monkeypatch.delenv(name)


def test_a_single_process_connects_to_nothing():
  jax.devices()
  distributed.initialize()
  assert distributed.process_index_and_count() == (0, 1)
  assert not jax.distributed.is_initialized()
  assert distributed.all_agree(True) and not distributed.all_agree(False)
  assert (
    distributed.describe_disconnect(ValueError('Connection closed by peer'))
    is None
  )
  assert distributed.hard_exit(3) == 3


@pytest.mark.parametrize(
  'values, message',
  [
    (dict(num_processes=2), 'num_processes is 2 and --process_id is None'),
    (dict(num_processes=0, process_id=0), 'is 0 .*; give both, at least one'),
    (
      dict(num_processes=2, process_id=2),
      'is 2 and --process_id is 2; .* from 0 to N-1',
    ),
    (dict(coordinator='host'), "'host'; it must be HOST:PORT, for example"),
    (dict(num_processes=2, process_id=1), 'give all of --coordinator='),
    (dict(distributed=True), 'no processes to connect to'),
  ],
)
def test_invalid_settings_are_refused(values, message, monkeypatch):
  def initialize(*_, **__):
    # JAX's error, unless a previous test has used a device.
    raise ValueError('coordinator_address should be defined.')

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  with flagsaver.flagsaver(**values):
    with pytest.raises(ValueError, match=message) as e:
      distributed.initialize()
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'variables, is_alone',
  [
    (SLURM | dict(SLURM_NTASKS='1'), True),
    # A shell in an allocation of eight tasks: JAX would wait for seven others.
    (SLURM | dict(SLURM_NTASKS='8', SLURM_STEP_NUM_TASKS='1'), True),
    (SLURM | dict(SLURM_NTASKS='8', SLURM_STEP_NUM_TASKS='8'), False),
    (dict(OMPI_COMM_WORLD_SIZE='1', SLURM_JOB_ID='7'), True),
    (dict(OMPI_COMM_WORLD_SIZE='2', SLURM_JOB_ID='7'), False),
    (dict(TPU_PROCESS_ADDRESSES='local', TPU_WORKER_ID='0'), True),  # Kaggle
    (dict(TPU_PROCESS_ADDRESSES='local', TPU_WORKER_HOSTNAMES='a,b'), True),
    (dict(TPU_WORKER_HOSTNAMES='localhost'), True),  # Colab
    (dict(TPU_WORKER_HOSTNAMES='a,b', TPU_WORKER_ID='0'), False),
    (dict(TPU_WORKER_HOSTNAMES='a', MEGASCALE_NUM_SLICES='2'), False),
    (dict(KUBERNETES_SERVICE_HOST='10.0.0.1'), True),  # a notebook's pod
    (
      dict(KUBERNETES_SERVICE_HOST='10.0.0.1', JOB_COMPLETION_INDEX='0'),
      False,
    ),
  ],
)
def test_a_cluster_of_one_process(variables, is_alone, monkeypatch):
  asked = []
  monkeypatch.setattr(
    jax.distributed, 'initialize', lambda *_, **__: asked.append(1)
  )
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  distributed.initialize()
  assert bool(asked) != is_alone
  with flagsaver.flagsaver(distributed=True):
    distributed.initialize()  # Whoever asks for it gets JAX's detection.
  assert asked


@pytest.mark.parametrize(
  'error',
  [
    ImportError('No module named requests'),
    KeyError('job-name'),
    OSError(2, 'No such file', '/var/run/secrets/namespace'),
    RuntimeError('Pods within a job need a headless service.\nTo fix, add:'),
    ValueError('invalid literal for int()\nwith base 10'),
    type('ConfigException', (Exception,), {})('Service token file\nmissing'),
  ],
)
def test_errors_of_jaxs_detection_are_one_line(error, monkeypatch):
  def initialize(*_, **__):
    raise error

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  monkeypatch.setenv('JOB_COMPLETION_INDEX', '0')
  with pytest.raises(ValueError, match='--nodistributed') as e:
    distributed.initialize()
  assert '\n' not in str(e.value)


def test_variables_are_used_if_flags_are_absent(monkeypatch):
  monkeypatch.setenv('JAX_NUM_PROCESSES', '4')
  monkeypatch.setenv('JAX_PROCESS_ID', '3')
  assert distributed.process_index_and_count() == (3, 4)
  with flagsaver.flagsaver(process_id=1):
    assert distributed.process_index_and_count() == (1, 4)
  monkeypatch.setenv('JAX_PROCESS_ID', 'x')
  with pytest.raises(ValueError, match="JAX_PROCESS_ID is 'x'; .* number"):
    distributed.process_index_and_count()


def test_a_coordinator_that_does_not_answer():
  with socket.create_server(('localhost', 0)) as free:
    where = f'localhost:{free.getsockname()[1]}'
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      'from ttt_jax.runtime import cli, distributed\n'
      'cli.run(lambda _: distributed.initialize())',
      f'--coordinator={where}',
      '--num_processes=2',
      '--process_id=1',
      '--connect_timeout=2',
    ],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
    env=dict(os.environ, JAX_PLATFORMS='cpu'),
  )
  assert done.returncode == os.EX_TEMPFAIL
  (error,) = [x for x in done.stderr.splitlines() if x.startswith('error: ')]
  assert f'process 1 of 2 waited 2 s (--connect_timeout) at {where}' in error
  assert 'cannot be reached: Connection refused' in error


@pytest.mark.parametrize(
  'flag, variable, expected',
  [
    (None, None, '{workdir}/compilation_cache'),
    (None, '/elsewhere', None),  # JAX reads the variable itself.
    ('/named', '/elsewhere', '/named'),
    ('', None, ''),
  ],
)
def test_the_folder_of_compiled_programs(
  flag, variable, expected, tmp_path, monkeypatch
):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  if variable:
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', variable)
  found = []
  monkeypatch.setattr(
    compilation.jax.config, 'update', lambda _, value: found.append(value)
  )
  with flagsaver.flagsaver(compilation_cache=flag):
    compilation.enable_compilation_cache(tmp_path)
  expected = expected and expected.replace('{workdir}', str(tmp_path))
  assert found == ([] if expected is None else [expected or None])


def test_a_run_that_is_only_read_may_have_no_cache(tmp_path, monkeypatch):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  found = []
  monkeypatch.setattr(
    compilation.jax.config, 'update', lambda _, value: found.append(value)
  )
  (tmp_path / 'run').write_text('a file, in which no folder can be made')
  with flagsaver.flagsaver(compilation_cache=None):
    compilation.enable_compilation_cache(tmp_path / 'run', optional=True)
    compilation.enable_compilation_cache(None)
    assert not found
    with pytest.raises(ValueError, match='cannot be written'):
      compilation.enable_compilation_cache(tmp_path / 'run')
    compilation.enable_compilation_cache(tmp_path, optional=True)
  assert found == [f'{tmp_path}/compilation_cache']
