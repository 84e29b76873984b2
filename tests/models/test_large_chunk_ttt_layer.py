"""The layer of large-chunk TTT: heads, presets and positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.compare import relative_error
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import dit
from ttt_jax.models.dit import mixers
from ttt_jax.models.dit import rope

ORDER = token_order.TokenOrder(2, 2, 2, 2, 4)
MIXER = mixers.MIXERS['large_chunk_ttt']


def config(preset='matched', **sizes):
  sizes = dict(model_dim=64, num_heads=4, num_layers=1) | sizes
  return dit.DiTConfig(mixer='large_chunk_ttt', mixer_preset=preset, **sizes)


def run(preset, x):
  layer = MIXER.layer(config(preset), ORDER, sharding.ShardingPlan())
  rotary = rope.rotary_cos_sin(ORDER.ttt_positions, 16)
  params = layer.init(jax.random.key(0), x, rotary)
  return layer.apply(params, x, rotary, diagnose=True), params


@pytest.mark.parametrize('preset', MIXER.presets)
def test_a_step_of_a_fresh_layer_lowers_the_inner_loss(preset):
  x = jax.random.normal(jax.random.key(1), (1, ORDER.length, 64))
  (y, aux), params = jax.jit(run, static_argnums=0)(preset, x)
  assert y.shape == x.shape and aux['state_norm'] > 0
  assert aux['inner_loss_after'] < aux['inner_loss_before']
  # A token's step sizes start near 0.001.
  rates = params['params']['lr']['kernel'].shape[-1]
  assert rates == 4 * (1 if preset == 'last' else 3)


def test_positions_are_relative_to_each_other():
  """Moving every position changes no product of queries and keys."""
  layer = MIXER.layer(config(), ORDER, sharding.ShardingPlan())
  y = jax.random.normal(jax.random.key(0), (2, ORDER.length, 64))
  norm = (jnp.ones((4, 16)), jnp.zeros((4, 16)))
  products = []
  for shift in (0, 3):
    moved = np.where(ORDER.ttt_positions < 0, -1, ORDER.ttt_positions + shift)
    rotary = rope.rotary_cos_sin(moved, 16)
    heads = layer._normalise(y, norm, rotary).reshape(2, -1, 4, 16)
    np.testing.assert_allclose(jnp.linalg.norm(heads, axis=-1), 1, rtol=1e-5)
    video = heads[:, ORDER.ttt_positions[:, 0] >= 0]
    products.append(jnp.einsum('bihd,bjhd->bhij', video, video))
  assert relative_error(*products) < 1e-4


@pytest.mark.parametrize(
  ('heads', 'expected'), [(48, 4), (30, 2), (12, 4), (3, 1)]
)
def test_heads_are_wide_and_split_evenly(heads, expected):
  sizes = config(num_heads=heads, model_dim=64 * heads)
  assert MIXER.heads(sizes) == expected


def test_state_sizes_of_the_5b_model():
  sizes = {
    preset: MIXER.state_size(
      config(preset, model_dim=3072, num_heads=48), 10_000
    )
    for preset in MIXER.presets
  }
  head = 4 * 768 * 768
  assert sizes == dict(
    matched=3 * head, state=6 * head, last=head, muon=3 * head
  )
