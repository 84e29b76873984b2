"""The ops against reference numbers from the paper's PyTorch code.

The fixture of the project contains one small case, computed in float64 by an
independent PyTorch implementation of the dual form, see
`tests/fixtures/make_ttt_op.py`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.compare import relative_error
from tests.kernels.ops import interpreted
from tests.kernels.ops import OPS

# Ten times the float32 error of the paper's code itself.
VALUES, GRADIENTS = 5e-6, 1e-5
pytestmark = pytest.mark.optimized

GOLDEN_NAMES = {
  'q': 'XQ',
  'k': 'XK',
  'v': 'XV',
  'eta': 'eta',
  'ln_scale': 'ln_weight',
  'ln_bias': 'ln_bias',
  'w1': 'W1',
  'b1': 'b1',
  'w2': 'W2',
  'b2': 'b2',
  'w': 'W1',
  'b': 'b1',
}


def _ours(name, array):
  """Converts an array from the golden layout to the layout of the ops.

  In the golden layout tokens are [B, H, N, C, D], biases [B, H, 1, K], and eta
  is [B, H, N, C, C] with a row per query.
  """
  if name in ('q', 'k', 'v'):
    b, h, n, c, d = array.shape
    return array.reshape(b, h, n * c, d)
  if name == 'eta':
    return array.reshape(*array.shape[:2], -1)
  return array[:, :, 0] if name in ('b', 'b1', 'b2') else array


IMPLEMENTATIONS = ('pallas_tpu', 'pallas_gpu', 'xla', 'reference')


@pytest.fixture
def any_size(monkeypatch):
  """Makes the kernels accept heads and mini-batches smaller than a tile.

  Chips do not support them, but the interpreter does.
  """
  for op in OPS:
    monkeypatch.setattr(
      op.api.pallas_tpu, 'check_support', lambda *a: jnp.float32
    )
    monkeypatch.setattr(
      op.api.pallas_gpu, 'check_support', lambda *a, **k: None
    )


@functools.cache
def _value_and_pullback(op, mini_batch, implementation):
  """Returns a function, jitted once for all cases of one shape."""

  def call(arguments):
    return op.call(
      **arguments, mini_batch=mini_batch, implementation=implementation
    )

  @jax.jit
  def run(arguments, cotangent):
    out, pull, state = jax.vjp(call, arguments, has_aux=True)
    return out, state, pull(cotangent)[0]

  return run


@pytest.mark.usefixtures('any_size')
@pytest.mark.parametrize('op', OPS, ids=lambda op: op.name)
@pytest.mark.parametrize(
  'implementation, case',
  [
    pytest.param(
      name,
      case,
      # Every day test_ops.py compares the kernels with the definition.
      marks=[pytest.mark.slow] * name.startswith('pallas'),
    )
    for name in IMPLEMENTATIONS
    for case in 'ABC'
  ],
)
def test_golden_values_states_and_gradients(golden, op, case, implementation):
  """In case B the step sizes differ between rows; the ops use the last row."""
  data = dict(np.load(golden(f'{op.name}_op.npz')))
  mini_batch = data['A_XK'].shape[3]
  out_name, gradient = f'{case}_out', f'{case}_grad_'
  if case == 'B':
    out_name, gradient = 'B_out_lastrow', 'B_lastrow_grad_'
  names = op.specs.NAMES
  arguments = {
    n: jnp.asarray(_ours(n, data[f'{case}_{GOLDEN_NAMES[n]}']))
    for n in names
    if n != 'eta'
  }
  eta = data[f'{case}_eta'][..., -1, :]
  arguments['eta'] = jnp.asarray(eta.reshape(*eta.shape[:2], -1))

  b, n, c, h, d = data[out_name].shape
  tokens_first = (0, 3, 1, 2, 4)
  cotangent = data[f'{case}_cotangent'].transpose(tokens_first)
  run = _value_and_pullback(op, mini_batch, implementation)
  with interpreted(implementation):
    out, state, gradients = run(arguments, cotangent.reshape(b, h, n * c, d))
  want = data[out_name].transpose(tokens_first).reshape(b, h, n * c, d)
  assert relative_error(out, want) < VALUES

  # Only the last row updates the state, also where other rows differ (B).
  for name, array in zip(op.states, state) if case != 'B' else ():
    want = _ours(name, data[f'{case}_final_{GOLDEN_NAMES[name]}'])
    assert relative_error(array, want) < VALUES, name
  for name in names:
    want = data[gradient + GOLDEN_NAMES[name]]
    if name == 'eta':  # Every row contains the same step size of a token.
      want = want.sum(axis=-2)
    assert relative_error(gradients[name], _ours(name, want)) < GRADIENTS, name


@pytest.mark.usefixtures('any_size')
@pytest.mark.parametrize('op', OPS, ids=lambda op: op.name)
@pytest.mark.parametrize(
  'implementation',
  [
    # Every day test_ops.py compares the kernels with the definition.
    pytest.param(name, marks=[pytest.mark.slow] * name.startswith('pallas'))
    for name in IMPLEMENTATIONS
  ],
)
def test_own_fixture(fixtures, op, implementation):
  data = np.load(fixtures / 'ttt_op.npz')
  prefix = op.name + '_'
  arguments = {n: jnp.asarray(data[prefix + n]) for n in op.specs.NAMES}

  run = _value_and_pullback(op, int(data['mini_batch']), implementation)
  with interpreted(implementation):
    out, state, gradients = run(arguments, data['cotangent'])
  assert relative_error(out, data[prefix + 'out']) < VALUES
  for name, array in zip(op.states, state):
    assert relative_error(array, data[f'{prefix}final_{name}']) < VALUES, name
  for name, array in gradients.items():
    want = data[f'{prefix}grad_{name}']
    assert relative_error(array, want) < GRADIENTS, name
