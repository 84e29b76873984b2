"""The video pipeline on meshes: the same video, and one program per shape."""

import jax
import numpy as np
import pytest

from tests.helpers import random_params
from tests.pipeline import test_video
from ttt_jax import pipeline
from ttt_jax import sharding
from ttt_jax.models import dit
from ttt_jax.models.vae import causal3d

CONFIG = dit.DiTConfig(
  model_dim=64,
  num_heads=4,
  num_layers=1,
  time_embed_dim=16,
  text_dim=6,
  in_channels=4,
  out_channels=4,
  segment_latent_frames=2,
  mini_batch=8,
)
VAE = causal3d.CausalVAEConfig(
  latent_channels=4,
  block_out_channels=(8, 8, 8, 8),
  layers_per_block=1,
  norm_num_groups=2,
)


def make_pipe(mesh):
  params = random_params.random_params(dit.abstract_params(CONFIG))
  if mesh is not None:
    # As `VideoPipeline.load` places them.
    params = jax.tree.map(
      lambda x: jax.device_put(
        x, sharding.param_sharding(mesh, x, axes=sharding.AXES)
      ),
      params,
    )
    params = sharding.copy_for_sampling(mesh, params)
  shapes = jax.eval_shape(lambda: causal3d.init_params(VAE, jax.random.key(0)))
  vae = random_params.random_params(shapes)
  return pipeline.VideoPipeline(
    CONFIG,
    params,
    (VAE, vae),
    test_video.Texts(),
    height=16,
    width=16,
    mesh=mesh,
  )


@pytest.fixture(scope='module')
def expected():
  return np.asarray(
    make_pipe(None).sample_latents(
      test_video.story('a dog', 'it runs'), steps=3
    )
  )


@pytest.mark.parametrize('mesh', ['data:1,sp:2', 'data:2,sp:4'])
def test_a_mesh_samples_the_same_latents(mesh, expected):
  devices = sharding.make_mesh(sharding.parse_mesh(mesh))
  pipe = make_pipe(devices)
  found = pipe.sample_latents(test_video.story('a dog', 'it runs'), steps=3)
  np.testing.assert_allclose(found, expected, atol=2e-4)
  assert pipe._step._cache_size() == 1
