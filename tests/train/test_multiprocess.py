"""Processes train together, are killed, and resume in other numbers.

Each test starts its own processes (CPU devices, gloo) and is slow.
"""

import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers import fake_training
from tests.helpers import tiny_config
from tests.helpers import training_processes
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import train_state
from ttt_jax.train import loop
from ttt_jax.train import metrics

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).resolve().parents[2]
# Wide enough that parameters are split over processes.
CONFIG = dict(batch_size=8, log_every=1, model=dict(width=128))


def _wait_for(condition, seconds=120):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'nothing happened'
    time.sleep(0.05)


def _rows(workdir):
  return [
    {k: v for k, v in row.items() if k in ('step', 'loss', 'grad_norm')}
    for row in metrics.read(workdir / 'one')
  ]


def _params(workdir):
  return train_state.flatten(checkpoint.load_params(workdir, ema=False)[0])


def _assert_close(workdir, want, exact=False):
  """Compares losses and parameters with those of another run."""
  rtol = 0 if exact else 1e-5
  for a, b in zip(_rows(workdir), _rows(want), strict=True):
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=rtol)
  params, others = _params(workdir), _params(want)
  for path, x in params.items():
    atol = 0 if exact else 1e-5
    np.testing.assert_allclose(x, others[path], rtol=rtol, atol=atol)


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """The folder of the same training by one process."""
  workdir = tmp_path_factory.mktemp('alone')
  config = tiny_config.get_config()
  with config.unlocked():
    config.update(CONFIG)
  loop.train(fake_training.StandIn(config, workdir))
  return workdir


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """The folder of the training by two processes."""
  workdir = tmp_path_factory.mktemp('two')
  outputs, codes = training_processes.finish(
    training_processes.start(workdir, 2)
  )
  assert codes == [0, 0], outputs
  assert 'training one: 12/12' in outputs[0]
  assert 'training' not in outputs[1]  # Only process 0 prints.
  return workdir


def test_two_processes_train_as_one_does(two, alone):
  _assert_close(two, alone)


@pytest.mark.parametrize('dies', [0, 1])
def test_one_is_killed_the_other_ends_and_both_resume(dies, two, tmp_path):
  processes = training_processes.start(tmp_path, 2, '--pause=0.3')
  _wait_for(lambda: (tmp_path / 'one/checkpoints/6').exists())
  processes[dies].kill()
  killed = time.monotonic()
  outputs, codes = training_processes.finish(processes, 60)
  print('ended after', time.monotonic() - killed, codes, outputs)
  assert codes[dies] == -signal.SIGKILL and codes[1 - dies] != 0
  outputs, codes = training_processes.finish(
    training_processes.start(tmp_path, 2)
  )
  assert codes == [0, 0], outputs
  assert re.search('after step [69]', outputs[0])
  _assert_close(tmp_path, two, exact=True)


@pytest.mark.parametrize('told', [0, 1])
def test_sigterm_to_any_one_makes_both_save_the_same_step(told, two, tmp_path):
  processes = training_processes.start(
    tmp_path, 2, '--pause=0.3', '--config.checkpoint_every=100'
  )
  _wait_for(lambda: metrics.read(tmp_path / 'one'))
  processes[told].send_signal(signal.SIGTERM)
  outputs, codes = training_processes.finish(processes)
  assert codes == [0, 0], outputs
  (step,) = re.findall(r'SIGTERM: saved step (\d+) of 12', outputs[0])
  saved = [p.name for p in (tmp_path / 'one/checkpoints').iterdir()]
  assert saved == [step]
  outputs, codes = training_processes.finish(
    training_processes.start(tmp_path, 2, '--config.checkpoint_every=100')
  )
  assert codes == [0, 0], outputs
  assert f'after step {step}' in outputs[0]
  _assert_close(tmp_path, two, exact=True)


def test_other_numbers_of_processes_resume_with_the_same_data(alone, tmp_path):
  for count, step in ((1, 3), (2, 6), (4, 9)):
    processes = training_processes.start(tmp_path, count, '--pause=0.5')
    _wait_for((tmp_path / f'one/checkpoints/{step}').exists)
    processes[-1].kill()
    training_processes.finish(processes, 90)
  # Two processes that share a sequence read the same rows.
  outputs, codes = training_processes.finish(
    training_processes.start(tmp_path, 2, '--config.mesh.sp=2', mesh=1)
  )
  assert codes == [0, 0], outputs
  _assert_close(tmp_path, alone)


def test_damage_in_the_part_of_one_process(two, tmp_path):
  shutil.copytree(two, tmp_path / 'w')
  params = tmp_path / 'w/one/checkpoints/12/params'
  # Every process wrote its own folder.
  for path in (params / 'ocdbt.process_1').rglob('d/*'):
    path.write_bytes(path.read_bytes()[:50])
  outputs, codes = training_processes.finish(
    training_processes.start(tmp_path / 'w', 2)
  )
  assert codes == [0, 0], outputs
  assert 'checkpoint 12' in outputs[0] and 'moved to' in outputs[0]
  assert 'after step 9' in outputs[0]
  _assert_close(tmp_path / 'w', two, exact=True)


def test_the_launcher_ends_all_processes_and_forwards_signals(tmp_path):
  wait = 'import time; print("up", flush=True); time.sleep(60)'
  die = f'import os; os.environ["JAX_PROCESS_ID"] == "1" and exit(7); {wait}'
  script = [sys.executable, '-m', 'launch.local_processes', '--count=3']
  run = dict(cwd=ROOT, text=True, stdout=subprocess.PIPE)
  started = time.monotonic()
  done = subprocess.run(
    [*script, '--grace=2', '--', sys.executable, '-c', die],
    check=False,
    **run,
  )
  assert done.returncode == 7 and time.monotonic() - started < 40
  assert 'process 1 exited with 7' in done.stdout and '[0] up' in done.stdout
  process = subprocess.Popen([*script, '--', sys.executable, '-c', wait], **run)
  for _ in range(3):
    assert 'up' in process.stdout.readline()
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=20)
  assert process.returncode == 128 + signal.SIGTERM
