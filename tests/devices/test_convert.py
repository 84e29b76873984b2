"""A transformer loaded straight onto eight devices."""

import functools

import jax
import numpy as np

from ttt_jax import convert
from ttt_jax import sharding


def test_parameters_are_split_as_they_are_read(fixtures, monkeypatch):
  # Small arrays would be copied to all devices.
  monkeypatch.setattr(sharding, 'MIN_SPLIT', 64)
  mesh = sharding.make_mesh(dict(data=8))
  options = dict(mixer='ttt_mlp', mini_batch=8, dtype=np.float32)
  _, params = convert.load_dit(
    fixtures / 'tiny_rope',
    sharding=functools.partial(sharding.param_sharding, mesh),
    **options,
  )
  _, plain = convert.load_dit(fixtures / 'tiny_rope', **options)
  split = [
    x for x in jax.tree.leaves(params) if not x.sharding.is_fully_replicated
  ]
  largest = max(
    part.data.size / x.size for x in split for part in x.addressable_shards
  )
  assert len(split) > 10 and largest <= 1 / 8
  jax.tree.map(np.testing.assert_array_equal, params, plain)
