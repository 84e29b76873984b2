"""Stable Diffusion's autoencoder against diffusers' (fixtures/make_sd.py)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import compare
from ttt_jax.convert import load_kl_vae
from ttt_jax.models.vae import kl

SCALE = 0.18215


def clip(x):
  """Turns [N, c, h, w] into one clip of N frames."""
  return np.moveaxis(x, 1, -1)[None]


@functools.partial(jax.jit, static_argnums=(0, 1))
def apply(vae, method, params, x):
  return vae.apply({'params': params}, x, method=method)


@pytest.fixture(scope='module', name='tiny')
def _tiny(fixtures):
  config, params = load_kl_vae(fixtures / 'tiny_sd')
  return config, params, np.load(fixtures / 'tiny_sd/numbers.npz')


@pytest.mark.optimized
def test_moments_and_frames_of_diffusers(tiny):
  config, params, want = tiny
  vae = kl.KLVAE(config)
  mean, logvar = apply(vae, 'encode', params, clip(want['frames']))
  assert compare.relative_error(mean, SCALE * clip(want['mean'])) < 1e-5
  logvar -= 2 * np.log(SCALE)
  assert compare.relative_error(logvar, clip(want['logvar'])) < 1e-5
  latents = SCALE * clip(want['latents'])
  found = apply(vae, 'decode', params, latents)
  assert compare.relative_error(found, clip(want['decoded'])) < 1e-5
  # A clip of one frame has a branch of its own.
  found = apply(vae, 'decode', params, latents[:, :1])
  assert (
    compare.relative_error(found[0], want['decoded'][:1].transpose(0, 2, 3, 1))
    < 1e-5
  )


def test_memory_does_not_grow_with_frames(tiny):
  config, params, _ = tiny
  vae = kl.KLVAE(config)

  def temporaries(frames):
    latents = jax.ShapeDtypeStruct((1, frames, 16, 16, 4), jnp.float32)
    decode = lambda p, z: vae.apply({'params': p}, z, method='decode')
    stats = jax.jit(decode).lower(params, latents).compile().memory_analysis()
    return stats.temp_size_in_bytes - 2 * latents.size * latents.dtype.itemsize

  assert temporaries(32) < 1.1 * temporaries(4)


def test_bfloat16(tiny):
  config, params, want = tiny
  vae = kl.KLVAE(config, jnp.bfloat16)
  found = apply(vae, 'decode', params, SCALE * clip(want['latents']))
  assert found.dtype == jnp.float32
  assert 1e-4 < compare.relative_error(found, clip(want['decoded'])) < 0.05


def test_the_defaults_are_stable_diffusions():
  key = jax.random.key(0)
  config = kl.KLVAEConfig()
  params = jax.eval_shape(lambda: kl.init_params(config, key))
  assert sum(x.size for x in jax.tree.leaves(params)) == 83_653_863


def test_errors():
  config = kl.KLVAEConfig()
  with pytest.raises(ValueError, match='20x16 cannot be encoded.*of 8'):
    config.check_frames((1, 2, 20, 16, 3))
  with pytest.raises(ValueError, match=r'are not \[batch, frames'):
    config.check_latents((1, 2, 20, 16, 3))
  with pytest.raises(ValueError, match='128 is not a multiple of norm_num'):
    kl.KLVAEConfig(norm_num_groups=48)
