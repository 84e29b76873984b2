"""The table of weight names, checked in both directions."""

import weakref

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from ttt_jax.convert import rules
from ttt_jax.convert.rules import Rule

RULES = (
  Rule('blocks.{layer}.q.weight', 'layers/q/kernel', (1, 0)),
  Rule('head.{name}.weight', 'head_{name}/kernel', (1, 0)),
  Rule('head.{name}.bias', 'head_{name}/bias'),
)
SHAPES = {
  'layers/q/kernel': (12, 3, 2),
  'head_a/kernel': (3, 2),
  'head_a/bias': (2,),
}


def tensors():
  rng = np.random.default_rng(0)
  found = {f'blocks.{i}.q.weight': rng.normal(size=(2, 3)) for i in range(12)}
  found['head.a.weight'] = rng.normal(size=(2, 3))
  found['head.a.bias'] = rng.normal(size=(2,))
  return found


def test_there_and_back():
  source = tensors()
  params = rules.import_params(RULES, source, SHAPES, 'f')
  np.testing.assert_array_equal(
    params['layers']['q']['kernel'][10], source['blocks.10.q.weight'].T
  )
  back = rules.export_params(RULES, params)
  assert back.keys() == source.keys()
  for key, value in source.items():
    np.testing.assert_array_equal(back[key], value)


def test_all_mismatches_in_one_line():
  source = tensors()
  source['extra'] = np.zeros(1)
  source['head.b.bias'] = np.zeros(2)
  del source['head.a.bias']
  source['head.a.weight'] = np.zeros((2, 4))
  with pytest.raises(ValueError) as info:
    rules.import_params(RULES, source, SHAPES, 'weights.safetensors')
  message = str(info.value)
  assert '\n' not in message
  for part in (
    'weights.safetensors',
    '4 problem(s)',
    'extra is not known',
    'head.b.bias has no place',
    'head_a/bias (2,) is missing',
    'head_a/kernel has shape (4, 2)',
  ):
    assert part in message


def test_missing_layer():
  source = tensors()
  del source['blocks.4.q.weight']
  with pytest.raises(ValueError, match='layers/q/kernel lacks the layers 4'):
    rules.import_params(RULES, source, SHAPES, 'f')


def test_a_parameter_without_a_rule():
  with pytest.raises(ValueError, match='tail/kernel'):
    rules.export_params(RULES, {'tail': {'kernel': np.zeros((2, 2))}})


def test_types_are_kept_or_changed():
  source = {k: v.astype(jnp.bfloat16) for k, v in tensors().items()}
  kept = rules.import_params(RULES, source, SHAPES, 'f')
  wide = rules.import_params(RULES, source, SHAPES, 'f', dtype=np.float32)
  assert kept['head_a']['bias'].dtype == jnp.bfloat16
  assert wide['layers']['q']['kernel'].dtype == np.float32
  np.testing.assert_array_equal(
    kept['layers']['q']['kernel'].astype(np.float32),
    wide['layers']['q']['kernel'],
  )


def test_tensors_are_read_once_and_one_at_a_time():
  held = []

  class Tensor:
    def __init__(self, value):
      self.value, self.reads = value, 0
      self.shape, self.dtype = value.shape, value.dtype

    def __array__(self, dtype=None, copy=None):
      self.reads += 1
      out = self.value.copy()
      held.append(weakref.ref(out))
      assert sum(ref() is not None for ref in held) <= 2
      return out

  source = {k: Tensor(v) for k, v in tensors().items() if 'blocks' in k}
  shapes = {'layers/q/kernel': SHAPES['layers/q/kernel']}
  rules.import_params(RULES, source, shapes, 'f')
  assert {t.reads for t in source.values()} == {1}


def test_mixed_types_of_layers_become_the_wider_one():
  source = tensors()
  source['blocks.3.q.weight'] = source['blocks.3.q.weight'].astype(jnp.bfloat16)
  found = rules.import_params(RULES, source, SHAPES, 'f')['layers']['q']
  assert found['kernel'].dtype == source['blocks.2.q.weight'].dtype
  np.testing.assert_array_equal(
    found['kernel'][3], source['blocks.3.q.weight'].T
  )


def test_wrong_types():
  source = tensors()
  source['head.a.bias'] = np.zeros(2, np.int32)
  with pytest.raises(ValueError) as e:
    rules.import_params(RULES, source, SHAPES, 'f')
  assert 'head.a.bias has type int32, weights must have' in str(e.value)


@pytest.mark.parametrize(
  'spec', [P(None, 'data'), P('data'), P(None, None, 'data'), P()]
)
def test_straight_onto_devices(spec):
  source = tensors()
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ('data',))
  sharding = jax.sharding.NamedSharding(mesh, spec)
  placed = rules.import_params(
    RULES[:1],
    {k: v for k, v in source.items() if 'blocks' in k},
    {'layers/q/kernel': (12, 3, 2)},
    'f',
    dtype=np.float32,
    sharding=lambda like: sharding,
  )['layers']['q']['kernel']
  assert placed.sharding.is_equivalent_to(sharding, 3)
  expected = [source[f'blocks.{i}.q.weight'].T for i in range(12)]
  np.testing.assert_array_equal(placed, np.float32(expected))
