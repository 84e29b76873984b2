"""A video pipeline of tiny random models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers import random_params
from ttt_jax import pipeline
from ttt_jax import sharding
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.models import dit
from ttt_jax.models.vae import causal3d


class Texts:
  """A fake text encoder: numbers that depend on the words of a text."""

  text_length = 4
  width = 6
  identity = 'fake'

  def count_tokens(self, text):
    return len(text.split())

  def encode(self, texts):
    out = np.zeros((len(texts), self.text_length, self.width), np.float32)
    for i, text in enumerate(texts):
      for j, word in enumerate(text.split()):
        out[i, j] = np.sin(sum(map(ord, word)) * np.arange(1, self.width + 1))
    return out


def make(mesh: jax.sharding.Mesh | None = None) -> pipeline.VideoPipeline:
  """Returns the pipeline; on a mesh with parameters as `load` places them."""
  config = dit.DiTConfig(
    model_dim=64,
    num_heads=4,
    num_layers=2,
    time_embed_dim=16,
    text_dim=6,
    in_channels=4,
    out_channels=4,
    segment_latent_frames=2,
    mini_batch=8,
  )
  params = random_params.random_params(dit.abstract_params(config))
  if mesh is not None:
    params = jax.tree.map(
      lambda x: jax.device_put(
        x, sharding.param_sharding(mesh, x, axes=sharding.AXES)
      ),
      params,
    )
    params = sharding.copy_for_sampling(mesh, params)
  vae_config = causal3d.CausalVAEConfig(
    latent_channels=4,
    block_out_channels=(8, 8, 8, 8),
    layers_per_block=1,
    norm_num_groups=2,
  )
  shapes = jax.eval_shape(
    causal3d.CausalVAE(vae_config).init,
    jax.random.key(2),
    jnp.zeros((1, 1, 16, 16, 3)),
  )
  vae_params = random_params.random_params(shapes['params'])
  return pipeline.VideoPipeline(
    config,
    params,
    (vae_config, vae_params),
    Texts(),
    height=16,
    width=16,
    mesh=mesh,
  )


def story(*texts, negative=''):
  segments = [dict(text=text, negative=negative) for text in texts]
  return storyboard_lib.Storyboard.parse(dict(name='s', segments=segments))
