"""The training of an autoencoder goes on where it was stopped."""

import functools

import jax
import ml_collections
import numpy as np
import pytest
from safetensors.numpy import load_file

from examples.vae import clips as clips_lib
from examples.vae import train
from ttt_jax import convert
from ttt_jax.models.vae.causal3d import CausalVAE
from ttt_jax.models.vae.causal3d import CausalVAEConfig

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
  square=1.0,
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


# Compiles the training step of a decoder.
@pytest.mark.slow
def test_a_decoder_leaves_the_latents_as_they_are(tmp_path):
  config = ml_collections.ConfigDict(CONFIG | dict(noise=0.1))
  sizes = dict(CONFIG['vae'])
  vae = CausalVAE(CausalVAEConfig(**sizes, scaling_factor=(1.0, 0.5, 2.0, 1.0)))
  params = train.init_params(vae, clips(), jax.random.key(0))
  convert.save_vae(vae.config, params, tmp_path / 'linear')
  del sizes['latent_channels'], sizes['linear_shortcut']
  config.vae = sizes
  train.train_decoder(config, tmp_path / 'run', clips(), tmp_path / 'linear')
  x = np.random.default_rng(1).uniform(-1, 1, (1, 9, 16, 24, 3))
  encoded, decoded = [], []
  for folder in ('linear', 'run/vae'):
    config, params = convert.load_vae(tmp_path / folder)
    apply = functools.partial(CausalVAE(config).apply, {'params': params})
    encoded.append(apply(x.astype(np.float32), method='encode')[0])
    decoded.append(apply(encoded[0], method='decode'))
  np.testing.assert_allclose(*encoded, atol=2e-3)  # Kept in 16 bits.
  assert np.abs(decoded[0] - decoded[1]).max() > 0.01
  config = ml_collections.ConfigDict(CONFIG)
  config.vae = sizes | dict(patch_size=4)
  with pytest.raises(ValueError, match='compresses 16x in space, .* 8x'):
    train.train_decoder(config, tmp_path / 'no', clips(), tmp_path / 'linear')
