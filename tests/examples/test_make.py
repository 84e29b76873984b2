"""python -m examples.shapes: one command trains the complete model."""

import subprocess
import sys

import pytest

from ttt_jax.convert import model_folder
from ttt_jax.convert import stable_diffusion

SMALL = (
  'steps=2',
  'batch_size=2',
  'pictures=8',
  'words.steps=2',
  'autoencoder.steps=2',
  'autoencoder.warmup=1',
  'autoencoder.pictures=16',
)


@pytest.mark.slow
def test_trains_a_complete_model(tmp_path, request):
  subprocess.run(
    [
      sys.executable,
      '-m',
      'examples.shapes',
      '--config=configs/shapes.py',
      f'--workdir={tmp_path}',
      *(f'--config.{value}' for value in SMALL),
    ],
    check=True,
    cwd=request.config.rootpath,
  )
  model = tmp_path / 'sd'
  assert stable_diffusion.load_schedule(model).prediction == 'epsilon'
  for part in ('unet', 'vae', 'text_encoder'):
    assert model_folder.find_part(model, part) == model / part
