"""A trained stage becomes a complete model that the pipeline loads."""

import types

import jax
import ml_collections
import numpy as np
import pytest

from examples.cartoon import demo
from examples.cartoon import export
from examples.cartoon import linear
from examples.cartoon import text_encoder
from tests.helpers import commands
from tests.helpers import random_params
from ttt_jax import pipeline
from ttt_jax.checkpoints import checkpoint
from ttt_jax.models import dit
from ttt_jax.runtime import files

TEXT = 'Pip, a blue fox with a red hat, waves at the barn.'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  linear.write(folder / 'vae', stories=3)
  text_encoder.write(folder / 'text')
  model = dict(
    model_dim=64,
    num_heads=2,
    num_layers=1,
    time_embed_dim=32,
    text_dim=288,
    prediction='sample',
    in_channels=32,
    out_channels=32,
    patch_size=2,
    mini_batch=54,
    base_rows=2,
    base_columns=3,
    max_text_length=34,
  )
  return ml_collections.ConfigDict(
    dict(
      model=model,
      vae=dict(folder=str(folder / 'vae')),
      text=dict(folder=str(folder / 'text'), length=34),
      data=dict(height=32, width=48, fps=16),
      schedule_shift=1.0,
      scheduler='cogvideox_dpm',
    )
  )


def test_an_exported_model_makes_the_video_of_the_run(
  run, tmp_path, monkeypatch
):
  config = dit.DiTConfig(**run.model)
  params = random_params.random_params(dit.abstract_params(config))
  # Export keeps 16 bits.
  params = jax.tree.map(
    lambda x: np.asarray(x, np.float16).astype(np.float32), params
  )
  backbone = types.SimpleNamespace(config=config, prediction=config.prediction)
  monkeypatch.setattr(
    checkpoint, 'load_network', lambda *_, **__: (backbone, params, run)
  )
  export.export('run', tmp_path / 'model')
  options = dict(
    steps=2, guidance=1.0, guidance_schedule='constant', progress=False
  )
  want = pipeline.VideoPipeline.from_config(run, params)(TEXT, **options)
  found = pipeline.VideoPipeline.load(tmp_path / 'model')(TEXT, **options)
  assert found.fps == 16
  assert found.shape == (49, 32, 48, 3)
  np.testing.assert_allclose(
    np.asarray(found, int), np.asarray(want, int), atol=1
  )


def test_a_run_that_is_not_there(tmp_path):
  out = tmp_path / 'model'
  result = commands.run(
    'examples.cartoon.export', f'--workdir={tmp_path}/no', f'--out={out}'
  )
  assert result.returncode == 2
  assert f'{tmp_path}/no' in result.stderr
  assert result.stderr.count('\n') == 1
  assert not out.exists()


def test_the_shipped_model_has_the_settings_of_an_export():
  index = files.read_json(demo.MODEL / 'model_index.json')
  assert index['_sampling'] == export.SAMPLING


def test_another_autoencoder_must_have_the_same_latents(run, tmp_path):
  linear.write(tmp_path / 'other', stories=3, sizes=linear.Sizes(channels=16))
  export.check_latents(run.vae.folder, run.vae.folder)
  with pytest.raises(ValueError, match='has another latent_channels than'):
    export.check_latents(str(tmp_path / 'other'), run.vae.folder)
