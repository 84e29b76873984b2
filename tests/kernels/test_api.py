"""Checks of arguments, and dispatch to an implementation."""

import jax.numpy as jnp
import pytest

from pallas_kernels.dispatch import dispatch
from tests.kernels.ops import OPS
from tests.kernels.ops import SMALL

every_op = pytest.mark.parametrize('op', OPS, ids=lambda op: op.name)

BAD = {
  'rank of q': (dict(q=jnp.ones((3, 21, 8))), r'q has shape \(3, 21, 8\)'),
  'length of k': (dict(k=jnp.ones((2, 3, 20, 8))), r'k has .*\(2, 3, 21, 8\)'),
  'heads of v': (dict(v=jnp.ones((2, 4, 21, 8))), r'v has .*\[B, H, T, D\]'),
  'no tokens': (dict(q=jnp.ones((2, 3, 0, 8))), 'q has .* at least 1'),
  'eta per mini-batch': (dict(eta=jnp.ones((2, 3, 4))), r'eta .*\[B, H, T\]'),
  'ln_scale': (dict(ln_scale=jnp.ones(8)), r'ln_scale has shape \(8,\)'),
  'ln_bias': (dict(ln_bias=jnp.ones((8, 3))), r'ln_bias .*\(3, 8\)'),
  'integers': (dict(eta=jnp.ones((2, 3, 21), int)), 'eta has dtype int32'),
  'mini_batch 0': (dict(mini_batch=0), 'mini_batch=0 must be at least 1'),
  'mini_batch 1.5': (dict(mini_batch=1.5), 'mini_batch=1.5 must be an int'),
  'implementation': (
    dict(implementation='cuda'),
    "implementation='cuda' of ttt_.* 'xla'",
  ),
}
BAD_STATES = {
  'w1': (dict(w1=jnp.ones((3, 7, 32))), r'w1 has .*\[H, D, K\].*\(3, 8, 32\)'),
  'b1': (dict(b1=jnp.ones((3, 31))), r'b1 has shape \(3, 31\).*\(3, 32\)'),
  'w2': (dict(w2=jnp.ones((3, 8, 32))), r'w2 has .*\(3, 32, 8\)'),
  'batch of w2': (
    dict(w2=jnp.ones((5, 3, 32, 8))),
    r'w2 .*\[B, H, K, D\].*\(2, 3, 32, 8\)',
  ),
  'rank of w1': (dict(w1=jnp.ones((8, 32))), r'w1 has shape \(8, 32\)'),
  'w': (dict(w=jnp.ones((3, 8, 9))), r'w has .*\[H, D, D\].*\(3, 8, 8\)'),
  'b': (dict(b=jnp.ones((2, 8))), r'b has shape \(2, 8\).*\(3, 8\)'),
}
CASES = [
  pytest.param(op, *case, id=f'{op.name}-{name}')
  for op in OPS
  for name, case in {**BAD, **BAD_STATES}.items()
  if name in BAD or next(iter(case[0])) in op.states
]


@pytest.mark.parametrize('op, change, message', CASES)
def test_bad_arguments_are_named_in_one_line(op, change, message):
  arguments = {**op.arguments(SMALL), 'mini_batch': 6, **change}
  with pytest.raises(ValueError, match=message) as error:
    op.call(**arguments)
  assert '\n' not in str(error.value)


@every_op
def test_inner_losses_check_their_arguments(op):
  arguments = op.arguments(SMALL)
  del arguments['q']
  arguments['v'] = arguments['v'][:, :, 1:]
  with pytest.raises(ValueError, match=r'v has shape \(2, 3, 20, 8\)'):
    op.inner_losses(**arguments)


@every_op
@pytest.mark.parametrize('name', ['pallas_tpu', 'pallas_gpu'])
def test_absent_implementation_refuses_with_a_reason(op, name, monkeypatch):
  monkeypatch.delitem(op.api.IMPLEMENTATIONS, name, raising=False)
  with pytest.raises(NotImplementedError, match=f"no implementation '{name}'"):
    op.call(**op.arguments(SMALL), implementation=name)


def test_dispatch_falls_through_in_order_of_preference():
  def refuse(x):
    raise NotImplementedError(f'no {x}')

  table = {'reference': lambda x: ('reference', x), 'pallas_tpu': refuse}
  assert dispatch('op', table, None, 3) == ('reference', 3)
  table['xla'] = lambda x: ('xla', x)
  assert dispatch('op', table, None, 3) == ('xla', 3)
  assert dispatch('op', table, 'reference', 3) == ('reference', 3)
  with pytest.raises(NotImplementedError, match='no 3'):
    dispatch('op', table, 'pallas_tpu', 3)


def test_dispatch_collects_all_reasons():
  def refuse(reason):
    def implementation():
      raise NotImplementedError(reason)

    return implementation

  table = {'xla': refuse('too long'), 'reference': refuse('too odd')}
  with pytest.raises(ExceptionGroup, match='no implementation of op') as group:
    dispatch('op', table, None)
  assert [str(e) for e in group.value.exceptions] == ['too long', 'too odd']
