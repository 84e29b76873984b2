"""Checkpoints are restored exactly, and damaged ones are detected."""

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

from tests.helpers import compiler
from tests.helpers import configs
from tests.helpers import fake_training
from tests.helpers import tiny_config
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.checkpoints import compatibility
from ttt_jax.checkpoints import train_state as state_lib
from ttt_jax.models import dit
from ttt_jax.runtime import disk
from ttt_jax.runtime import files
from ttt_jax.train import loop
from ttt_jax.train import optimizer

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module', autouse=True)
def compiled(tmp_path_factory):
  """Lets all runs share compiled programs."""
  with compiler.keep_programs(tmp_path_factory.mktemp('compiled')):
    yield


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('finished')
  state = loop.train(fake_training.StandIn(tiny_config.get_config(), workdir))
  return workdir, jax.device_get(state)


@pytest.fixture
def copied(finished, tmp_path):
  shutil.copytree(finished[0], tmp_path / 'w')
  return tmp_path / 'w'


def _data(folder):
  """Returns the files with numbers (and with the tree above them)."""
  return [p for p in (folder / 'params').rglob('d/*') if p.is_file()]


def _truncate(folder):
  for path in _data(folder):
    path.write_bytes(path.read_bytes()[:100])


def _flip(folder):
  for path in _data(folder):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _other_numbers(folder):
  (path,) = (folder / 'meta').glob('metadata')
  meta = json.loads(path.read_text())
  meta['fingerprint']['ema'] ^= 1
  path.write_text(json.dumps(meta))


def _lose(folder):
  shutil.rmtree(folder / 'ema')


def _empty_meta(folder):
  for path in (folder / 'meta').iterdir():
    path.write_text('')


@pytest.mark.parametrize(
  'damage', [_truncate, _flip, _other_numbers, _lose, _empty_meta]
)
def test_the_previous_checkpoint_replaces_a_damaged_one(
  finished, copied, damage, capsys
):
  damage(copied / 'one/checkpoints/12')
  experiment = fake_training.StandIn(tiny_config.get_config(), copied)
  with pytest.warns(UserWarning, match='checkpoint 12 .* moved to'):
    state = loop.train(experiment)
  assert 'after step 9' in capsys.readouterr().out
  jax.tree.map(
    np.testing.assert_array_equal, jax.device_get(state), finished[1]
  )
  assert (copied / 'one/damaged-12').exists()
  assert (copied / 'one/checkpoints/12').exists()  # saved again


@pytest.mark.parametrize(
  'change, reason',
  [
    (lambda meta: None, 'meta is null; expected an object'),
    (lambda meta: [], 'meta is .*; expected an object'),
    (lambda meta: 'x', 'meta is "x"; expected an object'),
    (lambda meta: '[' * 100_000, 'nested too deeply'),
    (lambda meta: meta | dict(format=2), 'meta.format is 2; expected one of 1'),
    (lambda meta: meta | dict(step=9), 'meta.step is 9, in the folder 12'),
    (lambda meta: meta | dict(items=None), 'meta.items is null; .* a list'),
    (lambda meta: meta | dict(items=['x']), 'item 1 of meta.items is "x"'),
    (lambda meta: meta | dict(config=[]), 'meta.config is ..; .* an object'),
    (lambda meta: meta | dict(data={}), 'meta.data has no "identity"'),
    (lambda meta: meta | dict(fingerprint={}), 'not those that were saved'),
    (lambda meta: meta | dict(time='x'), 'meta.time is "x"; .* a number'),
    (lambda meta: {k: v for k, v in meta.items() if k != 'config'}, 'no "conf'),
  ],
)
def test_damage_of_the_metadata(copied, change, reason):
  """To restore, and to sample: the previous checkpoint, and a warning."""
  path = copied / 'one/checkpoints/12/meta/metadata'
  changed = change(json.loads(path.read_text()))
  is_text = isinstance(changed, str) and len(changed) > 1
  path.write_text(changed if is_text else json.dumps(changed))
  with pytest.warns(UserWarning, match=f'checkpoint 12 .* read: .*{reason}'):
    checkpoint.load_params(copied)
  experiment = fake_training.StandIn(tiny_config.get_config(), copied)
  checkpoints = checkpoint.Checkpoints(copied / 'one', experiment.config)
  checkpoints.check_config()
  made = optimizer.make_optimizer(
    experiment.config.optimizer, experiment.abstract_params, 12
  )
  abstract = jax.eval_shape(
    lambda p: state_lib.create(p, made.tx, made.trainable),
    experiment.abstract_params,
  )
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(lambda x: x.update(sharding=device), abstract)
  with pytest.warns(UserWarning, match='checkpoint 12 .* moved to'):
    state, _, _ = checkpoints.restore(abstract)
  assert int(state.step) == 9


def test_weights_without_their_average_are_not_silent(copied):
  folder = copied / 'one/checkpoints/12'
  path = folder / 'meta/metadata'
  meta = json.loads(path.read_text())
  meta['items'].remove('ema')
  del meta['fingerprint']['ema']
  path.write_text(json.dumps(meta))
  shutil.rmtree(folder / 'ema')
  with pytest.warns(UserWarning, match='12 .* has no averaged weights'):
    checkpoint.load_params(copied)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    checkpoint.load_params(copied, ema=False)


def test_parameters_of_another_network(finished):
  params = checkpoint.load_params(finished[0])[0]
  state_lib.check_shapes(params, params, 'w')
  other = dict(params, readout=dict(kernel=np.zeros((2, 3))), new=np.zeros(4))
  with pytest.raises(ValueError) as e:
    state_lib.check_shapes(params, other, 'w')
  assert str(e.value) == (
    'the weights in w do not fit their config: new is absent there and (4,) by'
    ' config.model; readout/kernel is (16, 16) there and (2, 3) by'
    ' config.model; was it edited by hand?'
  )


def test_a_step_may_be_damaged_a_second_time(finished, copied):
  for _ in range(2):
    _truncate(copied / 'one/checkpoints/12')
    with pytest.warns(UserWarning, match='checkpoint 12 .* moved to'):
      loop.train(fake_training.StandIn(tiny_config.get_config(), copied))
  assert len(list((copied / 'one').glob('damaged-12*'))) == 2
  jax.tree.map(
    np.testing.assert_array_equal,
    checkpoint.load_params(copied)[0],
    checkpoint.load_params(finished[0])[0],
  )


def test_sampling_uses_the_previous_checkpoint_too(finished, copied):
  _truncate(copied / 'one/checkpoints/12')
  with pytest.warns(UserWarning, match='checkpoint 12 .* cannot be read'):
    params, config = checkpoint.load_params(copied, ema=False)
  assert config.stage == 'one'
  moved = params['readout']['kernel'] - finished[1].params['readout']['kernel']
  assert 0 < np.abs(moved).max() < 0.1


def test_no_readable_checkpoint_is_an_error(copied):
  for folder in (copied / 'one/checkpoints').iterdir():
    _truncate(folder)
  experiment = fake_training.StandIn(tiny_config.get_config(), copied)
  with (
    pytest.warns(UserWarning),
    pytest.raises(ValueError, match=r'none of the checkpoints \[12, 9\]'),
  ):
    loop.train(experiment)


def test_load_params_merges_the_average(finished):
  workdir, state = finished
  params, config = checkpoint.load_params(workdir / 'one')
  jax.tree.map(np.testing.assert_array_equal, params, state_lib.averaged(state))
  assert config.optimizer.clip == 1.0
  plain, _ = checkpoint.load_params(workdir / 'one', ema=False)
  jax.tree.map(np.testing.assert_array_equal, plain, state.params)
  assert (plain['readout']['kernel'] != params['readout']['kernel']).any()


def test_a_relative_folder(finished, copied, monkeypatch):
  monkeypatch.chdir(copied.parent)
  params, _ = checkpoint.load_params('w')
  jax.tree.map(
    np.testing.assert_array_equal,
    params,
    checkpoint.load_params(finished[0])[0],
  )
  config = tiny_config.get_config()
  config.steps += 2
  state = loop.train(fake_training.StandIn(config, 'w'))
  assert int(state.step) == config.steps
  assert not list(copied.rglob('damaged-*'))


def test_a_checkpoint_with_one_fingerprint_of_all_is_read(finished, copied):
  """Old versions wrote one fingerprint for all items."""
  (path,) = (copied / 'one/checkpoints/12/meta').glob('metadata')
  meta = json.loads(path.read_text())
  total = int(checkpoint_format.fingerprint(checkpoint._items(finished[1])))
  path.write_text(json.dumps(meta | dict(fingerprint=total)))
  state = loop.train(fake_training.StandIn(tiny_config.get_config(), copied))
  assert not (copied / 'one/damaged-12').exists()
  jax.tree.map(
    np.testing.assert_array_equal, jax.device_get(state), finished[1]
  )
  path.write_text(json.dumps(meta | dict(fingerprint=total ^ 1)))
  with pytest.warns(UserWarning, match='not those that were saved'):
    loop.train(fake_training.StandIn(tiny_config.get_config(), copied))


def test_no_checkpoint_names_the_command(tmp_path):
  with pytest.raises(FileNotFoundError, match='ttt-jax train'):
    checkpoint.load_params(tmp_path)


def test_an_unfinished_save_is_ignored(copied):
  folder = copied / 'one/checkpoints'
  (folder / '12').rename(folder / '12.orbax-checkpoint-tmp')
  assert checkpoint.load_data(copied)['batches'] == dict(step=9)
  found = checkpoint.describe(copied)
  assert found['checkpoint'] == f'{copied.name}/one'
  assert found['checkpoint_step'] == 9
  assert found['checkpoint_fingerprint']['params']


def test_keep_every(tmp_path):
  config = tiny_config.get_config()
  config.keep_last, config.keep_every = 1, 6
  loop.train(fake_training.StandIn(config, tmp_path))
  kept = {p.name for p in (tmp_path / 'one/checkpoints').iterdir()}
  assert kept == {'6', '12'}


def test_differences_of_fields_that_may_not_change_are_listed():
  saved = files.to_json_types(tiny_config.get_config())
  config = tiny_config.get_config()
  config.steps, config.mesh.data, config.data.folder = 99, 2, 'elsewhere'
  config.model.remat = 'offload'
  compatibility.check_config(saved, config, pathlib.Path('w'))
  config.model.width = 3
  with pytest.raises(ValueError, match='model.width = 16 there, 3 here'):
    compatibility.check_config(saved, config, pathlib.Path('w'))
  del saved['data']['seconds']
  with pytest.raises(ValueError, match='data.seconds = None there, 3 here'):
    compatibility.check_config(saved, config, pathlib.Path('w'))
  # One value of a group, not the list of all groups twice.
  saved = files.to_json_types(tiny_config.get_config())
  saved['optimizer']['groups'][1][1]['lr'] = 0.5
  message = r': optimizer.groups.1.1.lr = 0.5 there, 0.01 here; choose'
  with pytest.raises(ValueError, match=message):
    compatibility.check_config(saved, tiny_config.get_config(), 'w')


def test_patterns_of_earlier_versions_continue():
  config = configs.load('quickstart').get_config('3s')
  saved = files.to_json_types(config)
  groups = saved['optimizer']['groups']
  groups[0][0] = 'layers/seq/ttt/[qkvo]/kernel'
  groups[1][0] = 'layers/seq/(ttt|gates)/.*'
  compatibility.check_config(saved, config, 'w')
  # They match the same parameters.
  params = dit.abstract_params(dit.DiTConfig(**config.model))
  assert optimizer.assign_groups(groups, params) == optimizer.assign_groups(
    config.optimizer.groups, params
  )


def test_a_window_from_before_it_was_a_field_continues():
  config = configs.load('memory').get_config('18s,sliding_window')
  saved = files.to_json_types(config)
  del saved['model']['window_size']
  compatibility.check_config(saved, config, 'w')
  config.model.window_size = 512
  with pytest.raises(ValueError, match='window_size = 8192 there, 512 here'):
    compatibility.check_config(saved, config, 'w')


def test_fields_of_other_mixers_may_change():
  load = lambda: configs.load('memory').get_config('18s,none')
  saved, config = files.to_json_types(load()), load()
  saved['model']['ttt_base_lr'] = 0.1 + config.model.ttt_base_lr
  compatibility.check_config(saved, config, 'w')
  saved['model']['mixer'] = config.model.mixer = 'ttt_mlp'
  with pytest.raises(ValueError, match='model.ttt_base_lr'):
    compatibility.check_config(saved, config, 'w')


def test_inherit_lists_new_parameters_and_refuses_unknown_ones():
  zeros, ones = np.zeros(2), np.ones(2)
  params, new = state_lib.inherit(
    dict(a=zeros, ttt=dict(w=zeros)), dict(a=ones)
  )
  assert new == ['ttt/w'] and params['a'] is ones
  with pytest.raises(ValueError, match='this model lacks: b'):
    state_lib.inherit(dict(a=zeros), dict(a=ones, b=ones))
  with pytest.raises(ValueError, match=r'a is \(3,\) in .* \(2,\) here'):
    state_lib.inherit(dict(a=zeros), dict(a=np.ones(3)))


def test_a_full_disk_is_recognized_by_number_and_by_text():
  assert disk.is_full(OSError(errno.ENOSPC, 'no'))
  error = ValueError('save failed')
  error.__cause__ = ValueError('x: No space left on device [os_error_code=28]')
  assert disk.is_full(error)
  assert not disk.is_full(OSError(errno.EIO, 'no'))


def test_full_disk(tmp_path):
  """Trains on a file system that can hold only one checkpoint."""
  mount = f'mount -t tmpfs -o size=4m tmpfs {tmp_path}'
  namespace = ['unshare', '--mount', 'sh', '-c']
  try:
    subprocess.run([*namespace, mount], check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip('mounting a file system is not permitted')
  train = (
    f'{sys.executable} -m tests.helpers.fake_training --workdir={tmp_path}'
    ' --config=tests/helpers/tiny_config.py --config.model.width=384'
  )
  out = subprocess.run(
    [*namespace, f'{mount}; {train}; echo exit $?; ls {tmp_path}/one/check*'],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
    env=dict(os.environ, JAX_PLATFORMS='cpu'),
  )
  lines = out.stdout.splitlines()
  assert lines[-2:] == ['exit 2', '3'], out
  error = [x for x in out.stderr.splitlines() if x.startswith('error: ')]
  assert len(error) == 1 and 'Traceback' not in out.stderr
  assert 'disk is full' in error[0] and 'complete one is 3' in error[0]


@pytest.mark.slow  # It needs a process of its own, 6 s.
def test_a_file_system_without_locks(tmp_path):
  """As on Lustre: the kernel's calls fail, in Python and in TensorStore."""
  library = tmp_path / 'no_locks.so'
  source = """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <stdarg.h>
    int flock(int file, int operation) { errno = ENOSYS; return -1; }
    #define FCNTL(name) int name(int file, int command, ...) { \\
      va_list list; va_start(list, command); void *a = va_arg(list, void *); \\
      if (command == F_OFD_SETLK || command == F_OFD_SETLKW || \\
          command == F_SETLK || command == F_SETLKW) { \\
        errno = ENOLCK; return -1; } \\
      int (*call)(int, int, ...) = dlsym(RTLD_NEXT, #name); \\
      return call(file, command, a); }
    FCNTL(fcntl)
    FCNTL(fcntl64)
  """
  if not shutil.which('cc'):
    pytest.skip('there is no C compiler')
  build = ['cc', '-shared', '-fPIC', '-xc', '-', '-o', library, '-ldl']
  subprocess.run(build, input=source, text=True, check=True)
  code = """
import sys
import jax
from tests.helpers import fake_training, tiny_config
from ttt_jax.train import loop
from tests.data import test_store
config = tiny_config.get_config()
config.steps = 1
loop.train(fake_training.StandIn(config, sys.argv[1]))
test_store.build(sys.argv[1] + '/data')
"""
  done = subprocess.run(
    [sys.executable, '-c', code, tmp_path / 'w'],
    env={**os.environ, 'LD_PRELOAD': str(library)},
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert checkpoint_format.steps(tmp_path / 'w' / 'one') == [1]
