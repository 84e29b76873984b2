"""The decoder learns, and the latents stay those of the linear autoencoder."""

import shutil

import jax
import ml_collections
import numpy as np
import pytest

from examples.cartoon import dataset
from examples.cartoon import decoder
from examples.cartoon import linear
from examples.cartoon import world
from examples.vae import clips as clips_lib
from tests.helpers import random_params
from ttt_jax import convert
from ttt_jax.models.vae import causal3d
from ttt_jax.models.vae.causal3d import CausalVAE
from ttt_jax.models.vae.causal3d import CausalVAEConfig

SIZES = linear.Sizes(height=32, width=48, fps=4, channels=8, cell=8)


@pytest.fixture(scope='module', name='stories')
def _stories(tmp_path_factory):
  folder = tmp_path_factory.mktemp('stories')
  dataset.write_dataset(
    folder,
    3,
    1,
    settings=world.SETTINGS['simple'],
    height=32,
    width=48,
    fps=4,
  )
  return folder


def test_clips_are_those_of_the_data_set_and_unseen_ones(stories):
  clips = decoder.read_clips(stories, 2)
  assert [clip.held_out == () for clip in clips] == [True] * 2 + [False] * 6
  assert {clip.frames.shape for clip in clips} == {(13, 32, 48, 3)}
  assert all(not clip.ranges() for clip in clips[2:])
  # As drawn, not softened: H.264 without loss, in colours of its own.
  first = dataset.read_story(stories / 'truth' / f'{clips[0].name}.json')
  drawn = decoder.render.frames(first, 32, 48, step=4)
  assert np.abs(clips[0].frames - drawn.astype(float)).mean() < 1


# Compiles the training step of an autoencoder.
@pytest.mark.slow
def test_the_decoder_learns_and_the_latents_stay(
  stories, tmp_path, monkeypatch
):
  monkeypatch.setattr(
    decoder,
    '_NETWORK',
    decoder._NETWORK | dict(block_out_channels=(8, 8, 8), norm_num_groups=2),
  )
  linear.write(tmp_path / 'linear', stories=3, sizes=SIZES)
  clips = decoder.read_clips(stories, 3)[:4]
  config = ml_collections.ConfigDict(
    decoder.CONFIG | dict(steps=12, frames=9, log_every=4, warmup=1)
  )
  out = tmp_path / 'refined'
  psnr = decoder.train(tmp_path / 'linear', clips, out, config)
  frames = clips_lib.to_range(clips[3].frames[None, :9])

  def pass_through(folder):
    sizes, params = convert.load_vae(folder)
    vae = CausalVAE(sizes)
    latents, _ = jax.jit(
      lambda p, x: vae.apply({'params': p}, x, method='encode')
    )(params, frames)
    decoded = jax.jit(
      lambda p, z: vae.apply({'params': p}, z, method='decode')
    )(params, latents)
    return latents, -10 * np.log10(np.mean((decoded - frames) ** 2) / 4)

  before, linear_psnr = pass_through(tmp_path / 'linear')
  after, refined_psnr = pass_through(out)
  np.testing.assert_allclose(after, before, atol=1e-5)
  assert refined_psnr > linear_psnr + 0.3
  assert psnr == pytest.approx(refined_psnr, abs=0.5)

  with pytest.raises(
    FileExistsError, match='refined exists and is not replaced'
  ):
    decoder.train(tmp_path / 'linear', clips, out, config)
  # From the last checkpoint, a finished run only writes its result anew.
  shutil.rmtree(out)
  again = decoder.train(tmp_path / 'linear', clips, out, config)
  assert again == pytest.approx(psnr, abs=1e-4)


def test_an_autoencoder_without_a_linear_map(tmp_path):
  sizes = CausalVAEConfig(
    latent_channels=4, block_out_channels=(4, 4, 4), norm_num_groups=1
  )
  params = random_params.random_params(causal3d.abstract_params(sizes))
  convert.save_vae(sizes, params, tmp_path / 'vae')
  with pytest.raises(ValueError, match='has no linear map; give the folder'):
    decoder.train(tmp_path / 'vae', [], tmp_path / 'out', None)
