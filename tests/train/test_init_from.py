"""Initial weights of a stage: pre-trained, in either layout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import tiny_experiment
from ttt_jax import backbones
from ttt_jax import convert
from ttt_jax.convert import native
from ttt_jax.convert import registry
from ttt_jax.models import dit
from ttt_jax.train import experiment as experiment_lib
from ttt_jax.train import init_from
from ttt_jax.train import loop


@pytest.fixture
def case(tmp_path):
  """A config, and config and bfloat16 parameters of a pre-trained model."""
  config = tiny_experiment.config()
  tiny_experiment.write_data_set(tmp_path / 'data/3s', config)
  fields = config.model.to_dict()
  # The size of the frames in the data set.
  fields |= dict(mixer='none', base_rows=2, base_columns=2)
  model = dit.DiTConfig(**fields)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.normal(scale=0.1, size=x.shape).astype(jnp.bfloat16),
    dit.abstract_params(model),
  )
  return config, model, params


def write(kind, folder, model, params):
  if kind == 'tree':
    native.write(folder, 'transformer', dataclasses.asdict(model), params)
  else:
    convert.save_dit(model, params, folder)


@pytest.mark.parametrize('kind', ['diffusers', 'tree'])
@pytest.mark.parametrize('part', ['', 'transformer'])
def test_parameters_from_pre_trained_weights(kind, part, case, tmp_path):
  config, model, params = case
  write(kind, tmp_path / 'model' / part, model, params)
  config.init_from = str(tmp_path / 'model')
  experiment = experiment_lib.Experiment(config, tmp_path)
  assert experiment.init_folder == tmp_path / 'model' / part
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  loaded = experiment.load_init_params(lambda like: device)
  for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(params)):
    assert ours.dtype == jnp.float32 and ours.sharding == device
    np.testing.assert_array_equal(ours, theirs.astype(np.float32))


@pytest.mark.slow
def test_training_starts_from_them_with_new_ttt_layers(case, tmp_path, capsys):
  config, model, params = case
  write('diffusers', tmp_path / 'model', model, params)
  config.init_from, config.steps = str(tmp_path / 'model'), 1
  config.model.mixer, config.diagnose_every = 'ttt_linear', 0
  state = loop.train(experiment_lib.Experiment(config, tmp_path))
  out = capsys.readouterr().out
  assert f'starts from the weights in {tmp_path / "model"}' in out
  assert 'layers/seq/ttt/w1' in out and 'attn' not in out
  q = lambda tree: np.float32(tree['layers']['seq']['attn']['q']['kernel'])
  # One step of about 1e-5 from the loaded weights, far from random ones.
  assert 0 < np.abs(q(state.params) - q(params)).max() < 1e-2


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(num_layers=3), 'num_layers = 3 there, 2 in config.model; set'),
    (
      dict(norm_eps=1e-6, positions='sincos'),
      "norm_eps = 1e-06 .*; positions = 'sincos' there, 'rope' in",
    ),
    (dict(base_rows=30, base_columns=45), 'base_rows = 30 there, 0 in'),
    (dict(mixer='ttt_mlp', mini_batch=16), 'mini_batch = 16 there, 4 in'),
    (dict(input_skip=True), 'input_skip = True there, False in'),
  ],
)
def test_weights_of_another_network(change, message, case):
  config, model, _ = case
  ours = dit.DiTConfig(**config.model)
  weights = init_from.InitFrom(
    'there', lambda s: None, dataclasses.replace(model, **change)
  )
  with pytest.raises(ValueError, match=message):
    init_from.check(weights, ours, backbones.geometry(config))


@pytest.mark.parametrize('is_stage', [False, True])
def test_a_skip_connection_may_be_new(is_stage, case):
  config, model, _ = case
  ours = dit.DiTConfig(**config.model, input_skip=True)
  weights = init_from.InitFrom('there', lambda s: None, model, is_stage)
  init_from.check(weights, ours, backbones.geometry(config))


def test_a_base_that_equals_the_grid_has_no_effect(case):
  config, model, _ = case
  assert model.base == (2, 2)
  weights = init_from.InitFrom('there', lambda s: None, model)
  init_from.check(
    weights, dit.DiTConfig(**config.model), backbones.geometry(config)
  )


def test_damaged_weights_are_reported_before_training(case, tmp_path):
  config, model, params = case
  write('diffusers', tmp_path / 'model', model, params)
  path = tmp_path / 'model/diffusion_pytorch_model.safetensors'
  path.write_bytes(path.read_bytes()[:-10])
  config.init_from = str(tmp_path / 'model')
  with pytest.raises(ValueError, match='not a complete safetensors file'):
    experiment_lib.Experiment(config, tmp_path)
  path.unlink()
  with pytest.raises(FileNotFoundError, match='no weights at'):
    experiment_lib.Experiment(config, tmp_path)


def test_another_kind_of_model(case, tmp_path):
  config, _, _ = case
  native.write(tmp_path / 'model', 'vae', {}, dict(a=np.ones(2, np.float32)))
  config.init_from = str(tmp_path / 'model')
  with pytest.raises(
    ValueError, match='contains a vae; training starts from a'
  ):
    experiment_lib.Experiment(config, tmp_path)


def test_a_stage_becomes_a_folder_for_diffusers(case, tmp_path):
  config, _, _ = case
  params = tiny_experiment.save_stage(tmp_path, config, {})
  model, loaded = registry.load_run(tmp_path, ema=True)
  assert model.base == (2, 2)
  convert.save_dit(model, loaded, tmp_path / 'out')
  again, back = convert.load_dit(tmp_path / 'out')
  assert again == dataclasses.replace(model, dtype='float32', remat='none')
  jax.tree.map(np.testing.assert_array_equal, back, params)
