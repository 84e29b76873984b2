"""Training in a bucket: by the same code as on a disk, to the same bits.

Needs what requirements-tpu.txt has for gs:// paths: pip install gcsfs
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
from tests.train import test_several_processes as several
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.train import init_from
from ttt_jax.train import loop
from ttt_jax.train import metrics
from ttt_jax.train import timing

# Found, not imported: it reads the environment when it is.
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
  """Whether two runs ended with the same bits."""
  for ema in (False, True):
    jax.tree.map(
      np.testing.assert_array_equal,
      checkpoint.load_params(folder, ema)[0],
      checkpoint.load_params(disk, ema)[0],
    )


def _arrays(bucket, step):
  """Names of the objects with numbers of a step's parameters."""
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
  # Copied to a disk it is a run of a disk, and goes on there.
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
  """Each time after some more writes: mostly in the middle of a save."""
  random.seed(time.time_ns())
  for _ in range(3):
    writes = bucket.requests['upload'] + random.randint(1, 120)
    print('killed after', writes)
    with _running('--pause=0.3') as process:
      _wait_for(lambda: bucket.requests['upload'] >= writes, process)
      process.send_signal(signal.SIGKILL)
      process.wait()
    print('whole:', checkpoint_format.steps(STAGE))
  _train()
  _same(RUN, disk)
  assert [row['step'] for row in metrics.read(STAGE)][-1] == 12
  assert not bucket.names('run/one/damaged')


def test_killed_before_the_last_word_of_a_save_it_is_none(bucket, disk):
  """A bucket renames nothing: what makes a save whole is written last."""
  _train()
  (done,) = [n for n in bucket.names() if n.endswith('/12/commit_success.txt')]
  del bucket.objects[done]
  assert checkpoint_format.steps(STAGE) == [9]
  assert 'after step 9' in _train()
  _same(RUN, disk)


def test_a_truncated_newest_checkpoint_gives_way_to_the_one_before(
  bucket, disk
):
  _train()
  for name in _arrays(bucket, 12):
    bucket.truncate(name, 100)
  with pytest.warns(UserWarning, match='checkpoint 12 .* cannot be read'):
    assert checkpoint.load_params(RUN, ema=False)[1].stage == 'one'
  out = _train()
  assert f'checkpoint 12 in {STAGE} cannot be read and is put aside' in out
  assert 'after step 9' in out
  assert bucket.names('run/one/damaged-12/')
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    _same(RUN, disk)  # 12 was saved anew.


def test_sigterm_saves_first_and_goes_on_bit_identical(bucket, disk):
  with _running('--pause=0.3', '--config.checkpoint_every=100') as process:
    # The first sign of life of a loop that has made steps.
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
  found = init_from.find(epath.Path(RUN), 'two')
  assert found.folder == STAGE and found.identity() == {'vae_identity': 'none'}
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  jax.tree.map(
    np.testing.assert_array_equal,
    found.load(lambda _: place),
    checkpoint.load_params(disk)[0],
  )
  config = tiny_config.get_config('two')
  config.steps = 1
  state = loop.train(fake_training.StandIn(config, RUN))
  np.testing.assert_array_equal(  # Frozen there.
    state.params['embed']['kernel'],
    checkpoint.load_params(disk)[0]['embed']['kernel'],
  )


def test_the_service_may_fail_for_a_while(bucket, disk):
  with _running('--pause=0.3') as process:
    _wait_for(lambda: bucket.requests['upload'] > 40, process)
    bucket.fail(4.0)
    out, _ = process.communicate(timeout=120)
  assert process.returncode == 0, out
  _same(RUN, disk)


def test_two_processes(bucket):
  outputs, codes = several._finish(several._start(RUN, 2))
  assert codes == [0, 0], outputs
  for name in _arrays(bucket, 12):
    bucket.truncate(name, 100)
  outputs, codes = several._finish(several._start(RUN, 2, '--config.steps=15'))
  assert codes == [0, 0], outputs
  assert 'after step 9' in outputs[0]
  assert checkpoint_format.steps(STAGE) == [15, 12]


def test_what_is_beside_the_checkpoints_goes_on(bucket):
  for start in (0, 4):
    with metrics.Writer(STAGE, start) as writer:
      for step in range(start + 1, start + 7):
        writer.write(step, dict(loss=float(step)))
    cost = timing.Goodput(STAGE, start, 1.0)
    cost.finished(start + 6)
    cost.close(done=False)
  assert [r['step'] for r in metrics.read(STAGE)] == list(range(1, 11))
  assert cost.row()['goodput/starts'] == 2
  assert bucket.names('run/one/metrics.jsonl')
