"""The table of weight names, checked both ways."""

import numpy as np
import pytest

from ttt_jax.convert import table
from ttt_jax.convert.table import Rule

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
  found = {
      f'blocks.{i}.q.weight': rng.normal(size=(2, 3)) for i in range(12)
  }
  found['head.a.weight'] = rng.normal(size=(2, 3))
  found['head.a.bias'] = rng.normal(size=(2,))
  return found


def test_there_and_back():
  source = tensors()
  params = table.from_source(RULES, source, SHAPES, 'f')
  np.testing.assert_array_equal(
      params['layers']['q']['kernel'][10], source['blocks.10.q.weight'].T
  )
  back = table.to_source(RULES, params)
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
    table.from_source(RULES, source, SHAPES, 'weights.safetensors')
  message = str(info.value)
  assert '\n' not in message
  for part in (
      'weights.safetensors', '4 problem(s)', 'extra is not known',
      'head.b.bias has no place', 'head_a/bias (2,) is missing',
      'head_a/kernel has shape (4, 2)',
  ):
    assert part in message


def test_missing_layer():
  source = tensors()
  del source['blocks.4.q.weight']
  with pytest.raises(ValueError, match='have gaps'):
    table.from_source(RULES, source, SHAPES, 'f')


def test_parameter_that_no_rule_writes():
  with pytest.raises(ValueError, match='tail/kernel'):
    table.to_source(RULES, {'tail': {'kernel': np.zeros((2, 2))}})
