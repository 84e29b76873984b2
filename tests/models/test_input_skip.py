"""The skip connection from the noisy latents to the output."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers import random_params
from ttt_jax import convert
from ttt_jax.models import dit
from ttt_jax.runtime import files

CONFIG = dit.DiTConfig(
  model_dim=32,
  num_heads=2,
  num_layers=1,
  time_embed_dim=16,
  text_dim=12,
  in_channels=4,
  out_channels=4,
  segment_latent_frames=2,
  mixer='none',
  prediction='sample',
  input_skip=True,
)


def inputs():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return draw(2, 5, 4, 4, 4), draw(2, 2, 3, 12), jnp.array([20.0, 900.0])


def apply(config, params, *arguments):
  return dit.DiffusionTransformer(config).apply({'params': params}, *arguments)


def test_it_adds_the_latents_times_factors_of_time_and_channel():
  params = random_params.random_params(dit.abstract_params(CONFIG))
  latents, text, timesteps = inputs()
  without = dataclasses.replace(CONFIG, input_skip=False)
  rest = {k: v for k, v in params.items() if k != 'input_skip'}
  ratio = (
    apply(CONFIG, params, latents, text, timesteps)
    - apply(without, rest, latents, text, timesteps)
  ) / latents
  factors = np.median(ratio, (1, 2, 3))
  np.testing.assert_allclose(
    ratio, np.broadcast_to(factors[:, None, None, None], ratio.shape), atol=2e-3
  )
  # They differ by channel, and by timestep more than by rounding.
  assert np.ptp(factors, axis=1).min() > 0.01
  assert np.abs(factors[0] - factors[1]).max() > 0.01


def test_it_starts_at_zero():
  params = dit.init_params(CONFIG, jax.random.key(0))
  assert not any(np.any(x) for x in jax.tree.leaves(params['input_skip']))


def test_a_folder_has_its_weights(tmp_path):
  params = random_params.random_params(dit.abstract_params(CONFIG))
  convert.save_dit(CONFIG, params, tmp_path / 'skip')
  config, loaded = convert.load_dit(tmp_path / 'skip')
  assert config.input_skip
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  # The folder of another model is as before, for diffusers.
  plain = dataclasses.replace(CONFIG, input_skip=False)
  del params['input_skip']
  convert.save_dit(plain, params, tmp_path / 'plain')
  assert 'input_skip' not in files.read_json(tmp_path / 'plain/config.json')
  assert not convert.load_dit(tmp_path / 'plain')[0].input_skip


def test_late_blocks_have_it_too():
  config = dataclasses.replace(CONFIG, num_layers=2)
  params = random_params.random_params(dit.abstract_params(config))
  late = dit.LateBlocks(config)
  want = apply(config, params, *inputs())
  found, added = late.compute(params, *inputs())
  np.testing.assert_allclose(found, want, atol=1e-5)
  found = late.reuse(params, *inputs(), added)
  np.testing.assert_allclose(found, want, atol=1e-5)
