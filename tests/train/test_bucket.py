"""Training in a bucket gives the same bits as on a disk.

Needs the package for gs:// paths of requirements-tpu.txt: pip install gcsfs
"""

import contextlib
import importlib.util
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
import warnings

from etils import epath
import jax
import numpy as np
import pytest

from tests.helpers import fake_training
from tests.helpers import tiny_config
from tests.helpers import training_processes
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.train import init_from
from ttt_jax.train import loop
from ttt_jax.train import metrics
from ttt_jax.train import timing

# gcsfs reads the environment when it is imported, so it is only looked up.
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not importlib.util.find_spec('gcsfs'), reason='pip install gcsfs'
  ),
]
ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN = 'gs://bucket/run'
STAGE = epath.Path(RUN) / 'one'


@pytest.fixture(scope='module')
def disk(tmp_path_factory):
  """The same training on a disk."""
  workdir = tmp_path_factory.mktemp('disk')
  loop.train(fake_training.StandIn(tiny_config.get_config(), workdir))
  return workdir


def _start(*flags):
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      'tests.helpers.fake_training',
      '--config=tests/helpers/tiny_config.py',
      f'--workdir={RUN}',
      *flags,
    ],
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    env=dict(os.environ, JAX_PLATFORMS='cpu'),
  )


def _train(*flags):
  """Trains to the end and returns what was printed."""
  process = _start(*flags)
  out, _ = process.communicate(timeout=120)
  assert process.returncode == 0, out
  assert not (ROOT / 'gs:').exists()
  return out


@contextlib.contextmanager
def _running(*flags):
  process = _start(*flags)
  try:
    yield process
  finally:
    process.kill()
    process.communicate()


def _wait_for(condition, process):
  end = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < end, 'nothing happened'
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.005)


def _same(folder, disk):
  """Asserts that two runs have the same parameters."""
  for ema in (False, True):
    jax.tree.map(
      np.testing.assert_array_equal,
      checkpoint.load_params(folder, ema)[0],
      checkpoint.load_params(disk, ema)[0],
    )


def _arrays(bucket, step):
  """Returns the names of the objects that contain a step's parameters."""
  names = bucket.names(f'run/one/checkpoints/{step}/params')
  return [name for name in names if '/d/' in name]


def test_a_run(bucket, disk, tmp_path):
  _train('--config.keep_last=1', '--config.keep_every=6')
  assert checkpoint_format.steps(STAGE) == [12, 6]
  _same(RUN, disk)
  rows, want = metrics.read(STAGE), metrics.read(disk / 'one')
  assert [row['loss'] for row in rows] == [row['loss'] for row in want]
  found = {p.name.split('.')[0] for p in STAGE.iterdir()}
  assert found == {'checkpoints', 'events', 'goodput', 'losses', 'metrics'}
  # A copy on a disk resumes there.
  for name in bucket.names('run/'):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bucket.objects[name].data)
  _same(tmp_path / 'run', disk)
  config = tiny_config.get_config()
  config.steps += 2
  state = loop.train(fake_training.StandIn(config, tmp_path / 'run'))
  assert int(state.step) == config.steps


def test_killed_at_any_moment_ends_bit_identical(bucket, disk):
  """Kills the process after some writes, mostly during a save."""
  random.seed(time.time_ns())
  for _ in range(3):
    writes = bucket.requests['upload'] + random.randint(1, 120)
    print('killed after', writes)
    with _running('--pause=0.3') as process:
      _wait_for(
        lambda writes=writes: bucket.requests['upload'] >= writes, process
      )
      process.send_signal(signal.SIGKILL)
      process.wait()
    print('complete:', checkpoint_format.steps(STAGE))
  _train()
  _same(RUN, disk)
  assert [row['step'] for row in metrics.read(STAGE)][-1] == 12
  assert not bucket.names('run/one/damaged')


def test_a_save_without_its_last_object_is_ignored(bucket, disk):
  """A bucket cannot rename; the marker of a complete save is written last."""
  _train()
  (done,) = [n for n in bucket.names() if n.endswith('/12/commit_success.txt')]
  del bucket.objects[done]
  assert checkpoint_format.steps(STAGE) == [9]
  assert 'after step 9' in _train()
  _same(RUN, disk)


def test_a_truncated_checkpoint_falls_back_to_the_previous_one(bucket, disk):
  _train()
  for name in _arrays(bucket, 12):
    bucket.truncate(name, 100)
  with pytest.warns(UserWarning, match='checkpoint 12 .* cannot be read'):
    assert checkpoint.load_params(RUN, ema=False)[1].stage == 'one'
  out = _train()
  assert f'checkpoint 12 in {STAGE} cannot be read and is moved to' in out
  assert 'after step 9' in out
  assert bucket.names('run/one/damaged-12/')
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    _same(RUN, disk)  # 12 was saved anew.


def test_sigterm_saves_and_the_resumed_run_is_bit_identical(bucket, disk):
  with _running('--pause=0.3', '--config.checkpoint_every=100') as process:
    # The loop has completed a step.
    _wait_for(lambda: bucket.names('run/one/goodput'), process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
  assert process.returncode == 0, out
  step = int(re.search(rf'SIGTERM: saved step (\d+) of 12 in {STAGE};', out)[1])
  assert checkpoint_format.steps(STAGE) == [step]
  assert f'after step {step}' in _train()
  _same(RUN, disk)


def test_a_stage_starts_from_one_in_the_bucket(bucket, disk):
  _train()
  weights = init_from.resolve_init_from(epath.Path(RUN), 'two')
  assert weights.folder == STAGE and weights.identity() == {
    'vae_identity': 'none'
  }
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  jax.tree.map(
    np.testing.assert_array_equal,
    weights.load(lambda _: device),
    checkpoint.load_params(disk)[0],
  )
  config = tiny_config.get_config('two')
  config.steps = 1
  state = loop.train(fake_training.StandIn(config, RUN))
  np.testing.assert_array_equal(  # Frozen there.
    state.params['embed']['kernel'],
    checkpoint.load_params(disk)[0]['embed']['kernel'],
  )


def test_the_service_fails_for_a_while(bucket, disk):
  with _running('--pause=0.3') as process:
    _wait_for(lambda: bucket.requests['upload'] > 40, process)
    bucket.fail(4.0)
    out, _ = process.communicate(timeout=120)
  assert process.returncode == 0, out
  _same(RUN, disk)


def test_two_processes(bucket):
  outputs, codes = training_processes.finish(training_processes.start(RUN, 2))
  assert codes == [0, 0], outputs
  for name in _arrays(bucket, 12):
    bucket.truncate(name, 100)
  outputs, codes = training_processes.finish(
    training_processes.start(RUN, 2, '--config.steps=15')
  )
  assert codes == [0, 0], outputs
  assert 'after step 9' in outputs[0]
  assert checkpoint_format.steps(STAGE) == [15, 12]


def test_metrics_and_goodput_are_resumed(bucket):
  for start in (0, 4):
    with metrics.Writer(STAGE, start) as writer:
      for step in range(start + 1, start + 7):
        writer.write(step, dict(loss=float(step)))
    goodput = timing.Goodput(STAGE, start, 1.0)
    goodput.finished(start + 6)
    goodput.close(done=False)
  assert [r['step'] for r in metrics.read(STAGE)] == list(range(1, 11))
  assert goodput.summary()['goodput/starts'] == 2
  assert bucket.names('run/one/metrics.jsonl')
