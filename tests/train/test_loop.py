"""A run has the same result however often it is stopped."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import compiler
from tests.helpers import fake_training
from tests.helpers import tiny_config
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import train_state as state_lib
from ttt_jax.train import loop
from ttt_jax.train import metrics
from ttt_jax.train import optimizer
from ttt_jax.train import step as step_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
optimized = pytest.mark.optimized


def _config(stage='one', **changes):
  config = tiny_config.get_config(stage)
  with config.unlocked():
    config.update(changes)
  return config


@pytest.fixture(scope='module', autouse=True)
def compiled(tmp_path_factory):
  """Lets all runs share compiled programs, those of other processes too."""
  folder = tmp_path_factory.mktemp('compiled')
  with compiler.keep_programs(folder) as variables:
    yield variables


def _start(workdir, *flags, env=()):
  command = [
    sys.executable,
    '-m',
    'tests.helpers.fake_training',
    '--config=tests/helpers/tiny_config.py',
    f'--workdir={workdir}',
    *flags,
  ]
  return subprocess.Popen(
    command,
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    env=dict(compiler.optimized(), JAX_PLATFORMS='cpu', **dict(env)),
  )


def _same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope='module')
def baseline(tmp_path_factory):
  """The folder and the last state of a run without interruption."""
  workdir = tmp_path_factory.mktemp('baseline')
  state = loop.train(fake_training.StandIn(_config(), workdir))
  return workdir, jax.device_get(state)


@optimized
def test_rows_and_files_of_a_run(baseline):
  workdir, _ = baseline
  rows = metrics.read(workdir / 'one')
  assert [row['step'] for row in rows] == [2, 4, 6, 8, 10, 12]
  assert {
    'loss',
    'grad_norm',
    'grad_norm/matrices',
    'lr/matrices',
    'param_norm',
  } <= set(rows[0])
  assert 'gate/00' in rows[1] and 'inner_loss_before' in rows[1]
  assert {
    'time/step',
    'time/data_share',
    'speed/tflops_per_chip',
    'speed/tokens_per_second_per_chip',
    'goodput/share',
  } <= set(rows[1])
  assert (workdir / 'one/losses.png').exists()
  assert list((workdir / 'one').glob('events.*'))


@optimized
def test_frozen_parameters_do_not_change_and_have_no_optimizer_state(
  baseline,
):
  _, state = baseline
  experiment = fake_training.StandIn(_config(), '/nowhere')
  key = step_lib.step_key(3, 0, step_lib.RngStream.INIT)
  first = jax.jit(experiment.init)(key)
  _same(first['embed'], state.params['embed'])
  assert (first['readout']['kernel'] != state.params['readout']['kernel']).all()
  assert 'embed' not in state.ema
  paths = [
    jax.tree_util.keystr(p)
    for p, _ in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]
  ]
  assert any('readout' in p for p in paths)
  assert not any('embed' in p for p in paths)


def test_frozen_parameters_cost_no_gradient():
  experiment = fake_training.StandIn(_config(), '/nowhere')
  adam = ('.*', dict(lr=1.0))
  batch = dict(mean=jax.ShapeDtypeStruct((4, 16), jnp.float32))

  def products(groups):
    made = optimizer.make_optimizer(
      dict(groups=groups), experiment.abstract_params, 12
    )
    step = step_lib.make_step(experiment.loss_fn, made, seed=0, ema_decay=0.9)
    state = jax.eval_shape(
      lambda p: state_lib.create(p, made.tx, made.trainable),
      experiment.abstract_params,
    )
    return str(jax.make_jaxpr(step)(state, batch)).count('dot_general')

  # Without the gradients of the first matrix and of its output there are two
  # products less.
  assert products([('embed/.*', None), adam]) == products([adam]) - 2


def _until_step(workdir, last):
  """Waits until a run has written the metrics of a step after `last`."""
  deadline = time.time() + 60
  while not any(row['step'] > last for row in metrics.read(workdir / 'one')):
    assert time.time() < deadline
    time.sleep(0.02)


@optimized
def test_killed_at_any_moment_ends_bit_identical(baseline, compiled, tmp_path):
  random.seed(time.time_ns())
  # The first process dies in one of its first steps. The second one, which
  # resumed, dies later: between two checkpoints or while it saves one.
  last = 0
  for most in (0.8, 0.5):
    process = _start(tmp_path, '--pause=0.2', env=compiled)
    _until_step(tmp_path, last)
    delay = random.uniform(0, most)
    print('killed after step', last, 'and', delay, 's')
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    last = metrics.read(tmp_path / 'one')[-1]['step']
  loop.train(fake_training.StandIn(_config(), tmp_path))
  for ema in (False, True):
    _same(
      checkpoint.load_params(tmp_path, ema=ema)[0],
      checkpoint.load_params(baseline[0], ema=ema)[0],
    )
  rows, want = (
    metrics.read(tmp_path / 'one'),
    metrics.read(baseline[0] / 'one'),
  )
  # Metrics that depend on time.
  measured = ('time', 'speed', 'memory', 'goodput')
  strip = lambda row: {
    k: v for k, v in row.items() if not k.startswith(measured)
  }
  assert [r['step'] for r in rows] == [r['step'] for r in want]
  assert strip(rows[-1]) == strip(want[-1])


@optimized
def test_sigterm_saves_and_the_resumed_run_is_bit_identical(
  baseline, compiled, tmp_path
):
  process = _start(
    tmp_path, '--pause=0.2', '--config.checkpoint_every=100', env=compiled
  )
  _until_step(tmp_path, 0)
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=60)
  assert process.returncode == 0, out
  assert 'SIGTERM: saved step' in out
  state = loop.train(fake_training.StandIn(_config(), tmp_path))
  _same(jax.device_get(state), baseline[1])


def test_nan_names_step_and_clips_and_keeps_the_last_finite_state(tmp_path):
  config = _config()
  with pytest.raises(ValueError, match=r'loss is nan in step 6.*clip-\d'):
    loop.train(fake_training.StandIn(config, tmp_path, poison=6))
  saved = [p.name for p in (tmp_path / 'one/checkpoints').iterdir()]
  assert saved == ['3']
  assert np.isfinite(
    checkpoint.load_params(tmp_path)[0]['readout']['kernel']
  ).all()


@optimized
def test_workdir_of_another_config(baseline):
  config = _config(seed=4, batch_size=2, log_every=1)
  with pytest.raises(ValueError) as e:
    loop.train(fake_training.StandIn(config, baseline[0]))
  message = str(e.value)
  assert 'seed = 3 there, 4 here' in message
  assert 'batch_size = 4 there, 2 here' in message
  assert 'log_every' not in message and '\n' not in message


@optimized
def test_a_stage_starts_from_the_averaged_weights_of_another(
  baseline, tmp_path
):
  config = _config('two', steps=1, previous_stage='one', ema_decay=0.0)
  experiment = fake_training.StandIn(config, tmp_path)
  experiment.init_folder = baseline[0] / 'one'
  seen = []
  first = experiment.loss_fn
  experiment.loss_fn = lambda p, b, k: (seen.append(p), first(p, b, k))[1]
  state = loop.train(experiment)
  assert state.ema == {}
  want = checkpoint.load_params(baseline[0])[0]
  _same(jax.device_get(state.params['embed']), want['embed'])
  # The first step of AdamW moves a value by the rate: 1e-2 / 2.
  moved = state.params['readout']['kernel'] - want['readout']['kernel']
  assert 0 < np.abs(moved).max() < 0.02


def test_microbatches_give_the_mean_gradient():
  experiment = fake_training.StandIn(_config(), '/nowhere')

  def loss_fn(params, batch, key):
    del key
    x = batch['mean']
    losses = jnp.mean(jnp.square(experiment._network(params, x) - x), axis=-1)
    return jnp.mean(losses), (losses, jnp.arange(len(x)) * 100)

  params = jax.jit(experiment.init)(jax.random.key(0))
  batch = next(experiment.batches())
  key = jax.random.key(1)
  accumulate = jax.jit(step_lib.accumulate, static_argnums=(0, 4))
  at_once = accumulate(loss_fn, params, batch, key, 1)
  parts = accumulate(loss_fn, params, batch, key, 2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    (at_once[0][0], at_once[1]),
    (parts[0][0], parts[1]),
  )
  np.testing.assert_allclose(
    np.sort(parts[0][1][0]), np.sort(at_once[0][1][0]), rtol=1e-6
  )


def test_training_finds_the_programs_that_were_precompiled(tmp_path):
  experiment = fake_training.StandIn(_config(seed=5), tmp_path)
  programs = lambda: {
    file.name
    for name in ('init', 'create', 'train_step', 'diagnose')
    for file in (tmp_path / 'cache').glob(f'jit_{name}-*-cache')
  }
  with compiler.keep_programs(tmp_path / 'cache'):
    loop.precompile(experiment)
    assert not experiment.folder.exists()
    precompiled = programs()
    loop.train(experiment)
  assert len(precompiled) == 4
  assert programs() == precompiled
