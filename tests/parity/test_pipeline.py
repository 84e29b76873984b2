"""From a text to frames: our pipeline against diffusers', on one folder."""

import jax
import numpy as np
import pytest

from tests.helpers import tiny_cogvideox
from ttt_jax import pipeline
from ttt_jax import storyboard

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

STEPS, GUIDANCE, SEED = 4, 6.0, 3
TEXT = 'A red square moves to the right over a grey floor.'
NEGATIVE = 'Night.'


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('model') / 'CogVideoX'
  tiny_cogvideox.write_model(folder)
  return folder


def test_a_folder_gives_the_same_frames_in_both_programs(folder):
  pipe = pipeline.VideoPipeline.load(folder)
  assert pipe.scheduler == 'cogvideox_dpm'
  latents = pipe.sample_latents(
    storyboard.Storyboard.parse([{'text': TEXT, 'negative': NEGATIVE}]),
    steps=STEPS,
    guidance=GUIDANCE,
    seed=SEED,
    scheduler='cogvideox_ddim',
    guidance_schedule='constant',
  )
  frames = pipe.decode(latents)

  theirs = diffusers.CogVideoXPipeline.from_pretrained(folder)
  theirs.set_progress_bar_config(disable=True)
  theirs.scheduler = diffusers.CogVideoXDDIMScheduler.from_config(
    theirs.scheduler.config
  )
  noise = jax.random.normal(
    jax.random.fold_in(jax.random.key(SEED), 0), latents.shape
  )
  call = dict(
    prompt=TEXT,
    negative_prompt=NEGATIVE,
    height=32,
    width=48,
    num_frames=49,
    num_inference_steps=STEPS,
    guidance_scale=GUIDANCE,
    use_dynamic_cfg=False,
    latents=torch.tensor(np.moveaxis(np.asarray(noise), -1, 2)),
  )
  expected = theirs(output_type='latent', **call).frames.numpy()
  expected = np.moveaxis(expected, 2, -1)
  error = np.abs(np.asarray(latents) - expected).max()
  assert error <= 2e-5 * np.abs(expected).max()
  pixels = theirs(output_type='np', **call).frames[0]
  assert frames.shape == pixels.shape == (49, 32, 48, 3)
  # Ours are rounded to uint8.
  assert np.abs(frames / 255 - pixels).max() <= 0.5 / 255 + 1e-3
