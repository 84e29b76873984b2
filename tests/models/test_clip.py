"""CLIP's text encoder against transformers'."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import compare
from ttt_jax.convert import load_clip
from ttt_jax.models.text import clip


@pytest.fixture(name='tiny')
def _tiny(fixtures):
  return fixtures / 'tiny_sd'


@functools.partial(jax.jit, static_argnums=0)
def apply(config, params, ids):
  return clip.CLIPTextEncoder(config).apply({'params': params}, ids)


@pytest.mark.optimized
def test_states_of_transformers(tiny):
  config, params = load_clip(tiny, dtype=np.float32)
  want = np.load(tiny / 'numbers.npz')
  assert (
    compare.relative_error(apply(config, params, want['ids']), want['states'])
    < 1e-5
  )
  # Other positions do not change what comes before them.
  ids = want['ids'].copy()
  ids[:, 50:] = 7
  found = apply(config, params, ids)
  assert compare.relative_error(found[:, :50], want['states'][:, :50]) < 1e-5
  assert compare.relative_error(found[:, 50:], want['states'][:, 50:]) > 0.1


def test_bfloat16(tiny):
  config, params = load_clip(tiny, compute_dtype='bfloat16')
  want = np.load(tiny / 'numbers.npz')
  states = apply(config, params, want['ids'])
  assert states.dtype == jnp.float32
  assert 1e-4 < compare.relative_error(states, want['states']) < 0.06


def test_the_defaults_are_stable_diffusion_1():
  params = clip.abstract_params(clip.CLIPTextConfig())
  assert sum(x.size for x in jax.tree.leaves(params)) == 123_060_480


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(dtype='float16'), "'float16'; expected one of float32, bfloat16"),
    (dict(activation='relu'), "'relu'; expected one of quick_gelu, gelu"),
    (dict(num_heads=7), 'the 7 heads of CLIP do not divide its width 768'),
  ],
)
def test_sizes_that_cannot_work(fields, message):
  with pytest.raises(ValueError, match=message):
    clip.CLIPTextConfig(**fields)
  with pytest.raises(ValueError, match='use at most 77'):
    jax.eval_shape(
      clip.CLIPTextEncoder(clip.CLIPTextConfig()).init,
      jax.random.key(0),
      jnp.zeros((1, 78), jnp.int32),
    )
