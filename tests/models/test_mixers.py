"""Statements about one direction of every mixer's layer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.compare import relative_error
from tests.helpers.random_params import random_params
from ttt_jax import geometry
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import dit
from ttt_jax.models.dit import mixers
from ttt_jax.models.dit import rope

# Texts of 4 and frames of 4 tokens: whole mini-batches.
ORDER = token_order.TokenOrder(2, 2, 2, 2, 4)
T, CUT, FILL = ORDER.length, ORDER.length - 4, 3
NAMES = [name for name in mixers.MIXERS if name != 'none']


def config(name, **fields):
  sizes = dict(model_dim=32, num_heads=2, num_layers=2, mini_batch=4)
  sizes |= dict(window_size=10)  # Less than the tokens of ORDER.
  return dit.DiTConfig(mixer=name, **(sizes | fields))


@functools.cache
def results(name):
  """Scans of some sequences and of changed ones, in one program."""
  plan = sharding.ShardingPlan()
  mixer = mixers.MIXERS[name]
  layer = mixer.layer(config(name), ORDER, plan)
  x, other = np.random.default_rng(0).normal(size=(2, 1, T + FILL, 32))
  positions = np.pad(
    ORDER.ttt_positions, ((0, FILL), (0, 0)), constant_values=-1
  )
  rotary = rope.rotary_cos_sin(positions, 16)
  short = tuple(table[:T] for table in rotary)
  shapes = jax.eval_shape(
    lambda: layer.init(jax.random.key(0), x[:, :T], short)
  )
  params = random_params(shapes, 0.3)
  index = ORDER.reverse_order
  permutation = mixers.scan_permutation(ORDER, True, T)
  changed = np.where(np.arange(T)[:, None] < CUT, x[:, :T], other[:, :T])

  @jax.jit
  def run(params, x, changed):
    scan = functools.partial(layer.apply, params, diagnose=True)
    return dict(
      plain=scan(x[:, :T], short),
      changed=scan(changed, short),
      reordered=scan(x[:, index], short),
      permuted=scan(x[:, :T], short, permutation),
      padded=scan(x, rotary, None, T),
    )

  return jax.device_get(run(params, jnp.float32(x), jnp.float32(changed)))


@pytest.mark.parametrize('name', NAMES)
def test_tokens_depend_on_those_scanned_before(name):
  found = results(name)
  (plain, _), (changed, _) = found['plain'], found['changed']
  assert relative_error(changed[:, :CUT], plain[:, :CUT]) < 1e-6
  assert relative_error(changed[:, CUT:], plain[:, CUT:]) > 0.1


@pytest.mark.parametrize('name', NAMES)
def test_a_permutation_reorders_the_scan_and_nothing_else(name):
  """Scanning in another order is a scan of reordered tokens, put back.

  The order is no involution: taking it for its own inverse would not do.
  """
  found, index = results(name), ORDER.reverse_order
  assert (index[index] != np.arange(T)).any()
  want = found['reordered'][0][:, np.argsort(index)]
  assert relative_error(found['permuted'][0], want) < 1e-5
  assert relative_error(found['plain'][0], want) > 0.1


@pytest.mark.parametrize('name', NAMES)
def test_padding_leaves_the_state_alone(name):
  found = results(name)
  (plain, aux), (padded, aux_padded) = found['plain'], found['padded']
  assert relative_error(padded[:, :T], plain) < 1e-5
  assert aux['state_norm'] > 0
  for key, value in aux.items():
    np.testing.assert_allclose(aux_padded[key], value, rtol=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_facts(name):
  mixer = mixers.MIXERS[name]
  for preset in mixer.presets:
    model = config(
      name, model_dim=3072, num_heads=48, num_layers=42, mixer_preset=preset
    )
    assert mixer.heads(model) % 4 == 0
    assert mixer.state_size(model, 10_000) > 0
    assert mixer.scan_flops(model, ORDER) > 0
  # About 7.2 B parameters in all; CogVideoX has 5.57 B of them.
  model = dataclasses.replace(model, mixer_preset='matched')
  shapes = dit.abstract_params(model)['layers']['seq']
  sizes = [np.prod(x.shape) for x in jax.tree.leaves(shapes[mixer.scope])]
  assert 1.55e9 < sum(sizes) < 1.75e9


@pytest.mark.parametrize(
  'name, width, frames, steps',
  [
    ('ttt_mlp', 720, 3, '5,495 steps of 64 tokens'),
    # 4050 tokens would end within a tile of a TPU.
    ('large_chunk_ttt', 720, 3, '86 steps of 4,096 tokens'),
    ('large_chunk_ttt', 64, 3, '113 steps of 360 tokens'),
    ('large_chunk_ttt', 720, 300, '1 step of 351,630 tokens'),
    ('mamba2', 720, 3, None),
  ],
)
def test_the_table_has_the_steps_of_the_state(name, width, frames, steps):
  minute = geometry.Geometry.from_seconds(63, 480, width, text_length=480)
  model = config(name, mini_batch=64, chunk_frames=frames)
  rows = mixers.table(model, dit.abstract_params(model), minute.order)
  assert dict(rows).get('training of the state') == steps


@pytest.mark.parametrize(
  'fields, message',
  [
    (
      dict(mixer='mamba'),
      r"model.mixer is 'mamba'; expected one of none, ttt_",
    ),
    (
      dict(mixer='mamba2', mixer_preset='big'),
      "mixer mamba2: model.mixer_preset is 'big'; expected one of matched, st",
    ),
    (
      dict(mixer='ttt_mlp', mixer_preset='state'),
      "mixer ttt_mlp: model.mixer_preset is 'state'; expected one of matched",
    ),
    (
      dict(mixer='gated_deltanet', implementation='pallas_tpu'),
      "model.implementation is 'pallas_tpu'; expected one of None, xla, ref",
    ),
    (
      dict(mixer='gated_deltanet', model_dim=48, num_heads=3),
      "num_heads is 3; for the preset 'matched' of gated_deltanet it must be a"
      ' multiple of 2, for example 4',
    ),
  ],
)
def test_sizes_that_do_not_fit(fields, message):
  with pytest.raises(ValueError, match=message):
    dit.DiTConfig(**fields)
