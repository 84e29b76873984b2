"""Rematerialisation does not change the gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import random_params
from ttt_jax.models import dit
from ttt_jax.models.dit import config as dit_config

CONFIG = dit.DiTConfig(
  model_dim=32,
  num_heads=2,
  num_layers=2,
  time_embed_dim=16,
  text_dim=12,
  in_channels=4,
  out_channels=4,
  segment_latent_frames=2,
  mixer='none',
)


def gradients(params, remat):
  module = dit.DiffusionTransformer(dataclasses.replace(CONFIG, remat=remat))
  rng = np.random.default_rng(0)
  latents = jnp.asarray(rng.normal(size=(1, 5, 4, 4, 4)), jnp.float32)
  text = jnp.asarray(rng.normal(size=(1, 2, 5, 12)), jnp.float32)

  @jax.grad
  def gradient(params):
    out = module.apply({'params': params}, latents, text, jnp.array([3.0]))
    return jnp.sum(out**2)

  return jax.jit(gradient)(params)


@pytest.fixture(scope='module')
def params():
  return random_params.random_params(dit.abstract_params(CONFIG), 0.05)


@pytest.fixture(scope='module')
def want(params):
  return gradients(params, 'none')


@pytest.mark.parametrize('remat', dit_config.REMAT_POLICIES[1:])
def test_gradients(params, want, remat):
  got = gradients(params, remat)
  for w, g in zip(jax.tree.leaves(want), jax.tree.leaves(got)):
    assert np.abs(w).max() > 0
    np.testing.assert_allclose(g, w, rtol=0, atol=1e-5 * np.abs(w).max())
