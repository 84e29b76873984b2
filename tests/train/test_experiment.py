"""The real network on a data set of noise: all checks, and a run."""

import importlib.util
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax import geometry
from ttt_jax import sharding
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import train_state as state_lib
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import writer as writer_lib
from ttt_jax.models import dit
from ttt_jax.train import experiment as experiment_lib
from ttt_jax.train import loop
from ttt_jax.train import metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIPS, TEXT, WIDTH = 3, 5, 12


def _load(path, arg):
  spec = importlib.util.spec_from_file_location('config', ROOT / path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg)


def _config(stage='3s'):
  """The quickstart, small."""
  config = _load('configs/quickstart.py', stage)
  config.data.height = config.data.width = 32
  config.text.length = TEXT
  config.model.update(
    model_dim=32,
    num_heads=2,
    num_layers=2,
    time_embed_dim=16,
    text_dim=WIDTH,
    mini_batch=4,
  )
  config.batch_size, config.steps = 2, 3
  config.log_every = 1
  config.diagnose_every = config.checkpoint_every = 3
  return config


def _write(folder, config, **changes):
  g = geometry.Geometry.from_config(config)
  fields = dict(
    vae_identity='vae:1',
    text_identity='text:1',
    scale=1.0,
    fps=g.fps,
    height=g.height,
    width=g.width,
    frames=g.frames,
    segments=g.segments,
    text_length=g.text_length,
    mini_batch=g.mini_batch,
  )
  manifest = manifest_lib.Manifest(**fields | changes)
  rng = np.random.default_rng(0)
  shape = (g.latent_frames, g.latent_height, g.latent_width, 16)
  writer = writer_lib.LatentWriter(folder, manifest, CLIPS)
  for row in range(CLIPS):
    writer.write(
      row,
      f'clip{row}',
      'x',
      mean=rng.normal(size=shape),
      logvar=np.full(shape, -4.0),
      text=rng.normal(size=(g.segments, TEXT, WIDTH)),
    )
  writer.write_null_text(np.zeros((TEXT, WIDTH)))
  writer.finish(
    [dict(name=f'clip{row}', row=row, storyboard={}) for row in range(CLIPS)]
  )


def _save_stage(workdir, config, identity):
  """A finished stage, without the training."""
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(scale=0.1, size=x.shape), jnp.float32),
    dit.abstract_params(dit.DiTConfig(**config.model)),
  )
  state = state_lib.TrainState(
    step=jnp.int32(5), params=params, opt_state=dict(x=jnp.ones(1)), ema={}
  )
  with checkpoint.Checkpoints(workdir / config.stage, config) as checkpoints:
    checkpoints.save(state, dict(identity=identity))
  return params


@pytest.mark.slow
def test_the_real_model_goes_on_from_a_stage_without_ttt(tmp_path, capsys):
  config = _config('9s')
  _write(tmp_path / 'data/9s', config)
  identity = manifest_lib.read_manifest(tmp_path / 'data/9s').identity()
  earlier = _config('3s')
  earlier.model.mixer = 'none'
  before = _save_stage(tmp_path, earlier, identity)
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


def test_text_is_dropped_at_the_rate_of_the_config(tmp_path):
  config = _config()
  _write(tmp_path / 'data/3s', config)
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
  config = _config()
  _write(tmp_path / 'data/3s', config, **change)
  with pytest.raises(ValueError, match=message) as e:
    experiment_lib.Experiment(config, tmp_path)
  assert '\n' not in str(e.value)


def test_weights_of_another_vae(tmp_path):
  config = _config()
  _write(tmp_path / 'data/3s', config)
  experiment = experiment_lib.Experiment(config, tmp_path)
  saved = experiment.identity()
  experiment.check_identity(saved, tmp_path)
  with pytest.raises(ValueError, match="vae_identity 'vae:2', .*'vae:1'"):
    experiment.check_identity(saved | dict(vae_identity='vae:2'), tmp_path)


def test_missing_data_names_the_command(tmp_path):
  with pytest.raises(FileNotFoundError, match='python -m ttt_jax.precompute'):
    experiment_lib.Experiment(_config(), tmp_path)


def test_missing_earlier_stage(tmp_path):
  config = _config('9s')
  _write(tmp_path / 'data/9s', config)
  with pytest.raises(FileNotFoundError, match='9s starts from weights in'):
    experiment_lib.Experiment(config, tmp_path)


@pytest.mark.parametrize(
  'name, value, message',
  [
    ('steps', 0, 'config.steps is 0; .* 1 or more'),
    ('batch_size', 2.5, 'config.batch_size is 2.5'),
    ('text_dropout', 1.5, 'text_dropout is 1.5; it must be in'),
    ('stage', 'a/b', 'names a folder'),
    ('scheduler', 'euler', "unknown scheduler 'euler': .*cogvideox_dpm"),
  ],
)
def test_values_that_cannot_work(name, value, message):
  config = _config()
  with config.ignore_type():
    config[name] = value
  with pytest.raises(ValueError, match=message):
    experiment_lib.check_config(config)


def _command(*flags):
  return subprocess.run(
    [sys.executable, '-m', 'ttt_jax.train', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def test_dry_run_of_the_longest_stage_and_an_error():
  out = _command('--config=configs/ttt_video.py:63s', '--dry_run')
  assert out.returncode == 0, out.stderr
  assert '351,630 tokens' in out.stdout and 'frozen' in out.stdout
  out = _command(
    '--config=configs/quickstart.py', '--dry_run', '--config.mesh.sp=3'
  )
  assert out.returncode == 2
  assert out.stderr.splitlines()[-1].startswith('error: config.mesh.sp 3 ')
