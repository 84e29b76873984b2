"""The real network on a data set of noise: all checks, and one run."""

import jax
import numpy as np
import pytest

from tests.helpers import commands
from tests.helpers import tiny_experiment
from ttt_jax import convert
from ttt_jax import sharding
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.models.dit import mixers
from ttt_jax.train import experiment as experiment_lib
from ttt_jax.train import loop
from ttt_jax.train import metrics


@pytest.mark.slow
def test_the_real_model_starts_from_a_stage_without_ttt(tmp_path, capsys):
  config = tiny_experiment.config('9s')
  tiny_experiment.write_data_set(tmp_path / 'data/9s', config)
  identity = manifest_lib.read_manifest(tmp_path / 'data/9s').identity()
  earlier = tiny_experiment.config('3s')
  earlier.model.mixer = 'none'
  before = tiny_experiment.save_stage(tmp_path, earlier, identity)
  state = loop.train(experiment_lib.Experiment(config, tmp_path))
  out = capsys.readouterr().out
  assert 'new parameters: layers/seq/gates' in out
  assert 'layers/seq/ttt/w1' in out and 'attn' not in out
  frozen = lambda params: params['layers']['mlp_norm']['scale']
  np.testing.assert_array_equal(frozen(state.params), frozen(before))
  q = lambda params: params['layers']['seq']['attn']['q']['kernel']
  assert (q(state.params) != q(before)).all()
  row = metrics.read(tmp_path / '9s')[-1]
  assert np.isfinite(row['loss'])
  layer = {k.removesuffix('/01') for k in row if k.endswith('/01')}
  assert {
    'forward_text_gate',
    'reverse_video_gate',
    'forward_inner_loss_before',
    'reverse_inner_loss_after',
  } <= layer


@pytest.mark.slow  # Two programs and a conversion for each mixer.
@pytest.mark.parametrize(
  'mixer', [name for name in mixers.MIXERS if name != 'none']
)
def test_every_mixer_trains_resumes_and_is_exported(mixer, tmp_path, capsys):
  config = tiny_experiment.config(f'3s,{mixer}')
  tiny_experiment.write_data_set(tmp_path / 'data/3s', config)
  config.steps = config.diagnose_every = 1
  loop.train(experiment_lib.Experiment(config, tmp_path))
  config.steps = 2
  state = loop.train(experiment_lib.Experiment(config, tmp_path))
  assert 'after step 1' in capsys.readouterr().out
  row = metrics.read(tmp_path / '3s')[-1]
  assert row['forward_state_norm/00'] > 0 and row['reverse_text_gate/01'] > 0
  out = commands.run(
    'ttt_jax.convert',
    f'--source={tmp_path / "3s"}',
    f'--out={tmp_path / "out"}',
    '--noema',
  )
  assert out.returncode == 0, out.stderr
  model, params = convert.load_dit(tmp_path / 'out')
  assert model.mixer == mixer
  jax.tree.map(np.testing.assert_array_equal, params, state.params)


def test_text_is_dropped_at_the_rate_of_the_config(tmp_path):
  config = tiny_experiment.config()
  tiny_experiment.write_data_set(tmp_path / 'data/3s', config)
  config.text_dropout = 0.25
  experiment = experiment_lib.Experiment(config, tmp_path)
  dropped = []

  class Network:
    def apply(self, variables, latents, text, timesteps):
      del variables, timesteps
      dropped.append(np.asarray((text == 0).all(axis=(1, 2, 3))))
      return latents

  objective = experiment.objective(sharding.make_mesh(config.mesh))
  objective._module = Network()
  batch = next(experiment.batches())
  batch = {k: np.concatenate([v] * 100) for k, v in batch.items()}
  objective.loss_fn({}, batch, jax.random.key(1))
  assert 0.15 < dropped[0].mean() < 0.35


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(mini_batch=8), 'mini_batch is 8 in the data set but 4'),
    (dict(height=64, fps=8), 'fps is 8 .*height is 64'),
  ],
)
def test_a_manifest_that_does_not_fit(tmp_path, change, message):
  config = tiny_experiment.config()
  tiny_experiment.write_data_set(tmp_path / 'data/3s', config, **change)
  with pytest.raises(ValueError, match=message) as e:
    experiment_lib.Experiment(config, tmp_path)
  assert '\n' not in str(e.value)


def test_weights_of_another_vae(tmp_path):
  config = tiny_experiment.config()
  tiny_experiment.write_data_set(tmp_path / 'data/3s', config)
  experiment = experiment_lib.Experiment(config, tmp_path)
  saved = experiment.identity()
  experiment.check_identity(saved, tmp_path)
  with pytest.raises(ValueError, match="vae_identity 'vae:2', .*'vae:1'"):
    experiment.check_identity(saved | dict(vae_identity='vae:2'), tmp_path)


def test_missing_data_names_the_command(tmp_path):
  with pytest.raises(FileNotFoundError, match='ttt-jax precompute'):
    experiment_lib.Experiment(tiny_experiment.config(), tmp_path)


def test_a_missing_previous_stage(tmp_path):
  config = tiny_experiment.config('9s')
  tiny_experiment.write_data_set(tmp_path / 'data/9s', config)
  with pytest.raises(FileNotFoundError, match='of stage 3s, but .*3s does not'):
    experiment_lib.Experiment(config, tmp_path)
  config.init_from = 'nowhere'
  with pytest.raises(FileNotFoundError, match='set --config.init_from to the'):
    experiment_lib.Experiment(config, tmp_path)


@pytest.mark.parametrize(
  'name, value, message',
  [
    ('steps', 0, 'config.steps is 0; expected a whole number >= 1'),
    ('batch_size', 2.5, 'config.batch_size is 2.5'),
    ('text_dropout', 1.5, 'text_dropout is 1.5; expected a number < 1'),
    ('stage', 'a/b', 'must be the name of a folder'),
    ('scheduler', 'euler', "unknown scheduler 'euler'; .*cogvideox_dpm"),
    ('model.mini_batch', 10**6, r'mini_batch is 1000000, and a clip has \d+ t'),
  ],
)
def test_invalid_values(name, value, message):
  config = tiny_experiment.config()
  with config.ignore_type():
    config.update_from_flattened_dict({name: value})
  with pytest.raises(ValueError, match=message):
    experiment_lib.check_config(config)


def test_dry_run_of_the_longest_stage_and_an_error():
  command = 'ttt_jax.train', '--dry_run'
  out = commands.run(*command, '--config=configs/ttt_video.py:63s')
  assert out.returncode == 0, out.stderr
  assert '351,630 tokens' in out.stdout and 'frozen' in out.stdout
  assert 'mixer state per layer' in out.stdout and '1,588,224' in out.stdout
  out = commands.run(
    *command, '--config=configs/quickstart.py', '--config.mesh.sp=3'
  )
  assert out.returncode == 2
  assert out.stderr.splitlines()[-1].startswith('error: config.mesh.sp 3 ')
