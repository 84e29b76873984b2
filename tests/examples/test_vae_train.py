"""The training of an autoencoder goes on where it was stopped."""

import ml_collections
import numpy as np
import pytest
from safetensors.numpy import load_file

from examples.vae import clips as clips_lib
from examples.vae import train

WEIGHTS = 'vae/diffusion_pytorch_model.safetensors'

CONFIG = dict(
  seed=0,
  vae=dict(
    latent_channels=4,
    block_out_channels=(4, 4, 4),
    layers_per_block=1,
    norm_num_groups=2,
    patch_size=2,
    linear_shortcut=True,
  ),
  steps=3,
  batch_size=1,
  frames=9,
  eval_frames=9,
  cuts=0.5,
  kl=1e-5,
  muon_lr=0.02,
  adam_lr=1e-3,
  warmup=1,
  log_every=1,
)


def clips():
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (2, 12, 16, 24, 3), np.uint8)
  return [
    clips_lib.Clip('a', frames[0], ()),
    clips_lib.Clip('b', frames[1], ((0, 12),)),
  ]


def test_windows_that_cannot_be_decoded(tmp_path):
  config = ml_collections.ConfigDict(CONFIG | dict(frames=5))
  with pytest.raises(ValueError, match='frames is 5; expected .* example 17'):
    train.train(config, tmp_path, clips())


class Killed(Exception):
  pass


def stop_at(step, monkeypatch):
  """Raises `Killed` before the given step, once."""
  windows = clips_lib.windows
  calls = []

  def killed(*args):
    calls.append(1)
    if len(calls) == step:
      raise Killed
    return windows(*args)

  monkeypatch.setattr(clips_lib, 'windows', killed)


# Compiles the training step of the complete autoencoder three times.
@pytest.mark.slow
def test_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
  config = ml_collections.ConfigDict(CONFIG)
  report = train.train(config, tmp_path / 'whole', clips())
  assert report['steps'] == 3
  stop_at(3, monkeypatch)
  with pytest.raises(Killed):
    train.train(config, tmp_path / 'parts', clips())
  train.train(config, tmp_path / 'parts', clips())
  whole, parts = (
    load_file(tmp_path / run / WEIGHTS) for run in ('whole', 'parts')
  )
  assert whole.keys() == parts.keys()
  for key, value in whole.items():
    np.testing.assert_array_equal(value, parts[key], err_msg=key)
