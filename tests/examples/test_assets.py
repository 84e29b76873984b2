"""The shipped model of the world of shapes loads and follows its prompts."""

import functools
import pathlib

import jax
import numpy as np

from examples.shapes import judge
from examples.shapes import tokenizer
from ttt_jax import convert
from ttt_jax.convert import stable_diffusion
from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import inversion
from ttt_jax.diffusion import samplers
from ttt_jax.encoders import load_text
from ttt_jax.encoders import video_encoder
from ttt_jax.models.unet3d import unet
from ttt_jax.runtime import paths

MODEL = 'package:ttt_jax/assets/shapes_sd'
PROMPTS = ('a red circle over a blue field', 'a yellow star over green stripes')
STEPS, GUIDANCE = 10, 4.0


def test_the_files_are_small():
  files = [p for p in paths.resolve(MODEL).rglob('*') if p.is_file()]
  assert sum(p.stat().st_size for p in files) < 10e6
  assert {p.suffix for p in files} <= {'.json', '.txt', '.safetensors'}


def test_the_shipped_tokenizer_is_reproducible(tmp_path):
  tokenizer.write_tokenizer(tmp_path)
  shipped = paths.resolve(MODEL) / 'tokenizer'
  for path in tmp_path.iterdir():
    assert (shipped / path.name).read_text() == path.read_text()


def test_samples_follow_their_prompts():
  folder = paths.resolve(MODEL)
  config, params = convert.load_unet(folder, temporal=False, dtype=np.float32)
  video = video_encoder.load_video_encoder(pathlib.Path(folder, 'vae'))
  texts = load_text.load_text_encoder(folder, tokenizer.LENGTH)
  schedule = stable_diffusion.load_schedule(folder)
  assert (config.prediction, texts.width) == ('epsilon', config.text_dim)
  sampling = schedule.sampling(STEPS)
  text, negative = texts.encode(PROMPTS), texts.encode([''] * len(PROMPTS))

  @jax.jit
  def sample(params, noise):
    module = unet.UNet3D(config)
    network = inversion.as_velocity(
      guidance.guided(
        functools.partial(module.apply, {'params': params}), text, negative
      ),
      config.prediction,
    )
    scales = guidance.constant(GUIDANCE, STEPS)
    return samplers.ddim(network, noise, sampling, scales)

  noise = jax.random.normal(jax.random.key(0), (len(PROMPTS), 1, 16, 16, 4))
  latents = np.asarray(sample(params, noise))[:, 0]
  for prompt, frame in zip(PROMPTS, video.decode(latents)):
    still = np.array([[0, 0], [9, 9]])  # There is no motion to compare.
    found = judge.judge(np.stack([frame, frame]), prompt, still)
    assert found.followed, (prompt, found)
