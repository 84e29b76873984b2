"""T5 over eight devices: the states of texts, and the memory of a device."""

import functools

import jax
import jax.numpy as jnp
import pytest

from tests.helpers import compare
from ttt_jax import sharding
from ttt_jax.encoders import load_text as encoder_lib
from ttt_jax.models.text import t5

TEXTS = ['a cat', 'The dog runs.', '', 'It goes on.<end_scene>', 'the mat']
# Large enough that its parameters are split, and deep enough that a copy of
# all of them cannot hide among the activations.
CONFIG = t5.T5Config(
  vocab_size=512,
  width=128,
  num_layers=16,
  num_heads=8,
  head_dim=32,
  mlp_dim=512,
)


@pytest.mark.parametrize(
  'shape', [dict(data=8), dict(data=4, sp=2), dict(data=3)], ids=str
)
def test_states_are_those_of_one_device(shape, fixtures, monkeypatch):
  tiny = fixtures / 'tiny_t5'
  want = encoder_lib.load_text_encoder(tiny, 24).encode(TEXTS)
  monkeypatch.setattr(sharding, 'MIN_SPLIT', 1)  # Also tiny parameters.
  mesh = sharding.make_mesh(shape)
  got = encoder_lib.load_text_encoder(tiny, 24, mesh=mesh).encode(TEXTS)
  assert compare.relative_error(got, want) < 1e-5


def test_a_device_holds_its_part(monkeypatch):
  """An eighth of the parameters, and never all of them at once."""
  monkeypatch.setattr(sharding, 'MIN_SPLIT', 1)
  mesh = sharding.make_mesh(dict(data=8))
  shapes = t5.abstract_params(CONFIG)
  place = functools.partial(sharding.param_sharding, mesh)
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)),
    shapes,
  )
  ids = jax.ShapeDtypeStruct(
    (8, 16), jnp.int32, sharding=sharding.batch_sharding(mesh)
  )
  module = t5.T5Encoder(CONFIG, sharding.ShardingPlan(mesh))
  apply = lambda p, ids: module.apply({'params': p}, ids)
  found = jax.jit(apply).lower(params, ids).compile().memory_analysis()
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
  assert found.argument_size_in_bytes < 1.05 * size / 8
  assert found.temp_size_in_bytes < size / 8
