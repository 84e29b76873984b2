"""What every implementation of an op must do, against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import mini_batches
from pallas_kernels.specs import Spec
from pallas_kernels.specs import SPECS
from tests.kernels.ops import OPS
from tests.kernels.ops import relative_error
from tests.kernels.ops import SMALL
from tests.kernels.ops import value_and_gradients

IMPLEMENTATIONS = [
    pytest.param(op, name, id=f'{op.name}-{name}')
    for op in OPS
    for name in op.api.IMPLEMENTATIONS
    if name != 'reference'
]
every_op = pytest.mark.parametrize('op', OPS, ids=lambda op: op.name)


def _strong(arguments):
  """Returns the arguments with step sizes of order 0.1."""
  return {**arguments, 'eta': arguments['eta'] * 100}


def _assert_equal_to_reference(op, name, arguments, mini_batch):
  got = value_and_gradients(op, arguments, mini_batch, implementation=name)
  want = value_and_gradients(
      op, arguments, mini_batch, implementation='reference'
  )
  for path, x in jax.tree_util.tree_leaves_with_path(got):
    y = dict(jax.tree_util.tree_leaves_with_path(want))[path]
    assert relative_error(x, y) < 1e-9, jax.tree_util.keystr(path)


@pytest.mark.parametrize('op, name', IMPLEMENTATIONS)
@pytest.mark.parametrize('mini_batch', [1, 7, 64])
def test_values_and_gradients_in_float64(op, name, mini_batch):
  """Lengths that divide, and one shorter than a mini-batch."""
  with jax.enable_x64(True):
    arguments = _strong(op.arguments(SMALL, jnp.float64))
    _assert_equal_to_reference(op, name, arguments, mini_batch)


@pytest.mark.parametrize('op, name', IMPLEMENTATIONS)
def test_groups_change_nothing(op, name, monkeypatch):
  """With so many mini-batches that only some states are kept.

  No other test has mini-batches of 2, so none shares what is compiled here.
  """
  monkeypatch.setattr(mini_batches, '_STATES_KEPT', 4)
  with jax.enable_x64(True):
    arguments = _strong(op.arguments(SMALL, jnp.float64))
    _assert_equal_to_reference(op, name, arguments, 2)


@pytest.mark.parametrize('op, name', IMPLEMENTATIONS)
def test_states_with_a_batch_axis_and_a_ragged_end(op, name):
  with jax.enable_x64(True):
    arguments = _strong(op.arguments(SMALL, jnp.float64))
    ramp = jnp.arange(1.0, 1 + SMALL.batch)
    for state in op.states:
      array = arguments[state]
      arguments[state] = array * ramp.reshape(-1, *(1,) * array.ndim)
    _assert_equal_to_reference(op, name, arguments, SMALL.mini_batch)


@pytest.mark.parametrize('op, name', IMPLEMENTATIONS)
def test_two_parts_equal_the_whole(op, name):
  arguments = _strong(op.arguments(SMALL))
  kwargs = dict(mini_batch=SMALL.mini_batch, implementation=name)
  whole, last = op.call(**arguments, **kwargs)
  cut = 2 * SMALL.mini_batch
  tokens = ('q', 'k', 'v', 'eta')
  first = {n: arguments[n][:, :, :cut] for n in tokens}
  second = {n: arguments[n][:, :, cut:] for n in tokens}
  out_1, state = op.call(**{**arguments, **first}, **kwargs)
  state = dict(zip(op.states, state))
  out_2, end = op.call(**{**arguments, **second, **state}, **kwargs)
  np.testing.assert_allclose(
      jnp.concatenate([out_1, out_2], axis=2), whole, atol=1e-6
  )
  for x, y in zip(end, last):
    np.testing.assert_allclose(x, y, atol=1e-6)


@pytest.mark.parametrize('op, name', IMPLEMENTATIONS)
def test_zero_step_sizes_keep_the_state(op, name):
  arguments = op.arguments(SMALL)
  arguments['eta'] = jnp.zeros_like(arguments['eta'])
  _, state = op.call(**arguments, mini_batch=5, implementation=name)
  for array, initial in zip(state, op.states):
    want = np.broadcast_to(arguments[initial], array.shape)
    np.testing.assert_array_equal(array, want)


@pytest.mark.parametrize('op, name', IMPLEMENTATIONS)
def test_vmap_is_a_loop(op, name):
  arguments = _strong(op.arguments(SMALL))
  stacked = {n: jnp.stack([x, 0.9 * x]) for n, x in arguments.items()}

  def gradients(arguments):
    return value_and_gradients(op, arguments, 6, implementation=name)

  mapped = jax.vmap(gradients)(stacked)
  for i in range(2):
    one = gradients({n: x[i] for n, x in stacked.items()})
    for x, y in zip(jax.tree.leaves(mapped), jax.tree.leaves(one)):
      assert relative_error(x[i], y) < 1e-5


@pytest.mark.parametrize('op, name', IMPLEMENTATIONS)
def test_bfloat16_tokens_have_a_float32_state(op, name):
  arguments = _strong(op.arguments(SMALL))
  narrow = {n: x.astype(jnp.bfloat16) for n, x in arguments.items()}
  out, state, gradients = value_and_gradients(
      op, narrow, 6, implementation=name
  )
  assert out.dtype == jnp.bfloat16
  assert all(x.dtype == jnp.float32 for x in state)
  assert all(g.dtype == jnp.bfloat16 for g in gradients.values())
  wide = {n: x.astype(jnp.float32) for n, x in narrow.items()}
  want, want_state, _ = value_and_gradients(op, wide, 6, implementation=name)
  assert relative_error(out, want) < 2**-8  # Only the result is rounded.
  for x, y in zip(state, want_state):
    assert relative_error(x, y) < 1e-6
  assert all(
      jnp.isfinite(x).all() for x in jax.tree.leaves((out, state, gradients))
  )


@pytest.mark.parametrize('op, name', IMPLEMENTATIONS)
@pytest.mark.parametrize('size', [0.0, 1e-20, 1e4, 1e8])
def test_extreme_inputs_stay_finite(op, name, size):
  """Zero keys meet zero biases: LN sees no variance at all."""
  arguments = op.arguments(SMALL)
  for x in ('q', 'k', 'v'):
    arguments[x] = arguments[x] * size
  if not size:
    for x in op.states:
      if x.startswith('b'):
        arguments[x] = jnp.zeros_like(arguments[x])
  arguments['eta'] = arguments['eta'] / max(1.0, size) ** 2
  result = value_and_gradients(op, arguments, 6, implementation=name)
  for path, x in jax.tree_util.tree_leaves_with_path(result):
    assert jnp.isfinite(x).all(), jax.tree_util.keystr(path)


@every_op
def test_long_sequence_stays_close_to_float64(op):
  """Errors of float32 do not grow over 1000 mini-batches."""
  spec = Spec(1, 1, 8000, 8, 16, mini_batch=8)
  with jax.enable_x64(True):
    want, _ = jax.jit(lambda a: op.call(**a, mini_batch=8))(
        op.arguments(spec, jnp.float64)
    )
  out, _ = jax.jit(lambda a: op.call(**a, mini_batch=8))(op.arguments(spec))
  assert relative_error(out, want) < 2e-5


@every_op
@pytest.mark.parametrize('mini_batch', [6, 21, 64])
def test_inner_losses(op, mini_batch):
  """They are those of the states on the way, and a step lowers them."""
  with jax.enable_x64(True):
    arguments = op.arguments(SMALL, jnp.float64)
    without_q = {n: x for n, x in arguments.items() if n != 'q'}
    before, after = op.inner_losses(**without_q, mini_batch=mini_batch)
    n = -(-SMALL.tokens // mini_batch)
    assert before.shape == after.shape == (SMALL.batch, SMALL.heads, n)
    assert (after < before).all()

    # Reading k instead of q shows LN(f(k; W')) to the outside.
    out, _ = op.call(**{**arguments, 'q': arguments['k']},
                     mini_batch=mini_batch)
    error = jnp.square(out - arguments['v'])
    loss = 0.5 * error.sum(-1)
    for i in range(n):
      tokens = slice(i * mini_batch, (i + 1) * mini_batch)
      np.testing.assert_allclose(
          after[..., i], loss[:, :, tokens].mean(-1), rtol=1e-12
      )


@every_op
@pytest.mark.parametrize('spec', SPECS.values(), ids=SPECS.keys())
def test_shapes_of_real_models(op, spec):
  """Traces the forward and the backward pass without memory for either."""
  arguments = op.specs.shapes(spec, jnp.bfloat16)
  out, state, gradients = jax.eval_shape(
      lambda a: value_and_gradients(op, a, spec.mini_batch), arguments
  )
  assert out.shape == arguments['q'].shape
  for x, name in zip(state, op.states):
    assert x.shape == (spec.batch, *arguments[name].shape)
    assert x.dtype == jnp.float32
  for name, x in gradients.items():
    assert (x.shape, x.dtype) == (arguments[name].shape, jnp.bfloat16)
