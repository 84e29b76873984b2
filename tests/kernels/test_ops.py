"""Every implementation of an inner-loop op, against the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.specs import Spec
from pallas_kernels.specs import SPECS
from pallas_kernels.tpu import tiling
from pallas_kernels.xla import mini_batches
from tests.helpers.compare import relative_error
from tests.kernels.ops import interpreted
from tests.kernels.ops import OPS
from tests.kernels.ops import SMALL
from tests.kernels.ops import spec_of
from tests.kernels.ops import value_and_gradients

IMPLEMENTATIONS = [
  pytest.param(op, name, id=f'{op.name}-{name}')
  for op in OPS
  for name in op.api.IMPLEMENTATIONS
  if name != 'reference'
]
PORTABLE = [param for param in IMPLEMENTATIONS if param.values[1] == 'xla']
# The large kernels take long to compile: they run in the slow suite where those
# of `ttt_linear` and the portable `ttt_mlp` cover the same behaviour.
SELDOM = [
  pytest.param(
    *param.values,
    id=param.id,
    marks=[pytest.mark.slow] * param.id.startswith('ttt_mlp-pallas'),
  )
  for param in IMPLEMENTATIONS
]
every_op = pytest.mark.parametrize('op', OPS, ids=lambda op: op.name)


def _strong(arguments):
  """Returns the arguments with step sizes of order 0.1."""
  return {**arguments, 'eta': arguments['eta'] * 100}


def _with_batch_axis(op, arguments):
  """Returns the arguments with another initial state per batch entry."""
  ramp = jnp.arange(1.0, 1 + len(arguments['q']))
  states = {
    state: arguments[state] * ramp.reshape(-1, *(1,) * arguments[state].ndim)
    for state in op.states
  }
  return {**arguments, **states}


def _assert_equal_to_reference(
  op, name, mini_batch, change=lambda a: a, spec=None
):
  """Compares values and gradients at `spec`, or `spec_of(name)`.

  In float64, which Pallas' interpreter supports too; the GPU kernels refuse it
  on every backend.
  """
  wide = name != 'pallas_gpu'
  with jax.enable_x64(True):
    exact = change(_strong(op.arguments(spec or spec_of(name), jnp.float64)))
    want = value_and_gradients(
      op, exact, mini_batch, implementation='reference'
    )
  with jax.enable_x64(wide):
    arguments = exact
    if not wide:
      arguments = {n: jnp.asarray(x, jnp.float32) for n, x in exact.items()}
    got = value_and_gradients(op, arguments, mini_batch, implementation=name)
  want = dict(jax.tree_util.tree_leaves_with_path(want))
  for path, x in jax.tree_util.tree_leaves_with_path(got):
    error = relative_error(x, want[path])
    assert error < (1e-9 if wide else 2e-5), jax.tree_util.keystr(path)


@pytest.mark.parametrize('op, name', PORTABLE)
@pytest.mark.parametrize(
  'mini_batch',
  [
    1,
    # 1 divides the length too, and below the mini-batches have 6 tokens.
    pytest.param(7, marks=pytest.mark.slow),
    64,
  ],
)
def test_values_and_gradients(op, name, mini_batch):
  """Lengths that divide, and one shorter than a mini-batch."""
  _assert_equal_to_reference(op, name, mini_batch)


@pytest.mark.parametrize(
  'op, name, mini_batch',
  [
    pytest.param(
      *param.values,
      mini_batch,
      id=f'{mini_batch}-{param.id}',
      # `test_packs_of_a_step` has 64 tokens, `ttt_linear` a short sequence.
      marks=[pytest.mark.slow]
      * ((param.id, mini_batch) == ('ttt_mlp-pallas_tpu', 64)),
    )
    for param in IMPLEMENTATIONS
    if param not in PORTABLE
    for mini_batch in (16, 64)
  ],
)
def test_values_and_gradients_of_kernels(op, name, mini_batch):
  _assert_equal_to_reference(op, name, mini_batch)


@every_op
@pytest.mark.parametrize(
  'latency_bound_packs', [3, pytest.param(0, marks=pytest.mark.slow)]
)
def test_packs_of_a_step(op, latency_bound_packs, monkeypatch):
  """Three packs are staggered if they count as few, else in lockstep.

  The states have a batch axis, the last mini-batch is not full.
  """
  monkeypatch.setattr(tiling, '_LATENCY_BOUND_PACKS', latency_bound_packs)
  # Different sizes, because programs traced earlier ignore the new value.
  mini_batch = 64 if latency_bound_packs else 32
  spec = Spec(2, 3, 85, head_dim=128, hidden=128)
  change = functools.partial(_with_batch_axis, op)
  _assert_equal_to_reference(op, 'pallas_tpu', mini_batch, change, spec)


@pytest.mark.parametrize('op, name', PORTABLE)
def test_groups_change_nothing(op, name, monkeypatch):
  """With so many mini-batches that only some states are kept.

  No other test has mini-batches of 2, so none shares what is compiled here.
  """
  monkeypatch.setattr(mini_batches, 'KEPT_BYTES', 0)
  _assert_equal_to_reference(op, name, 2)


@pytest.mark.parametrize(
  'op, name',
  [
    pytest.param(
      *param.values,
      id=param.id,
      # `test_packs_of_a_step` has such states for the TPU kernels,
      # `test_pallas_gpu.py` for the GPU kernels.
      marks=[pytest.mark.slow] * (param not in PORTABLE),
    )
    for param in IMPLEMENTATIONS
  ],
)
def test_states_with_a_batch_axis_and_a_ragged_end(op, name):
  change = functools.partial(_with_batch_axis, op)
  _assert_equal_to_reference(op, name, spec_of(name).mini_batch, change)


@pytest.mark.parametrize('op, name', SELDOM)
def test_two_parts_equal_the_whole(op, name):
  spec = spec_of(name)
  arguments = _strong(op.arguments(spec))

  @jax.jit
  def run(arguments):
    return op.call(**arguments, mini_batch=spec.mini_batch, implementation=name)

  def call(**arguments):
    with interpreted(name):
      return run(arguments)

  whole, last = call(**arguments)
  cut = 2 * spec.mini_batch
  tokens = ('q', 'k', 'v', 'eta')
  first = {n: arguments[n][:, :, :cut] for n in tokens}
  second = {n: arguments[n][:, :, cut:] for n in tokens}
  out_1, state = call(**{**arguments, **first})
  state = dict(zip(op.states, state))
  out_2, end = call(**{**arguments, **second, **state})
  np.testing.assert_allclose(
    jnp.concatenate([out_1, out_2], axis=2), whole, atol=1e-6
  )
  for x, y in zip(end, last):
    np.testing.assert_allclose(x, y, atol=1e-6)


@pytest.mark.parametrize('op, name', IMPLEMENTATIONS)
def test_zero_step_sizes_keep_the_state(op, name):
  arguments = op.arguments(spec_of(name))
  arguments['eta'] = jnp.zeros_like(arguments['eta'])
  _, state, _ = value_and_gradients(op, arguments, 16, implementation=name)
  for array, initial in zip(state, op.states):
    want = np.broadcast_to(arguments[initial], array.shape)
    # The TPU kernels keep the mean over features aside and add it again.
    np.testing.assert_allclose(
      array, want, rtol=0, atol=1e-7 if name == 'pallas_tpu' else 0
    )


@pytest.mark.parametrize('op, name', SELDOM)
def test_vmap_is_a_loop(op, name):
  arguments = _strong(op.arguments(spec_of(name)))
  stacked = {n: jnp.stack([x, 0.9 * x]) for n, x in arguments.items()}

  def gradients(arguments):
    return value_and_gradients(op, arguments, 16, implementation=name)

  mapped = jax.vmap(gradients)(stacked)
  for i in range(2):
    one = gradients({n: x[i] for n, x in stacked.items()})
    for x, y in zip(jax.tree.leaves(mapped), jax.tree.leaves(one)):
      assert relative_error(x[i], y) < 1e-5


@pytest.mark.parametrize('op, name', SELDOM)
def test_bfloat16_tokens_have_a_float32_state(op, name):
  arguments = _strong(op.arguments(spec_of(name)))
  narrow = {n: x.astype(jnp.bfloat16) for n, x in arguments.items()}
  out, state, gradients = value_and_gradients(
    op, narrow, 16, implementation=name
  )
  assert out.dtype == jnp.bfloat16
  assert all(x.dtype == jnp.float32 for x in state)
  assert all(g.dtype == jnp.bfloat16 for g in gradients.values())
  wide = {n: x.astype(jnp.float32) for n, x in narrow.items()}
  want, want_state, _ = value_and_gradients(op, wide, 16, implementation=name)
  # XLA widens the tokens, the kernels narrow the operands of their products.
  rounded_out, rounded_state = (2**-8, 1e-6) if name == 'xla' else (2**-6, 0.01)
  assert relative_error(out, want) < rounded_out
  for x, y in zip(state, want_state):
    assert relative_error(x, y) < rounded_state
  assert all(
    jnp.isfinite(x).all() for x in jax.tree.leaves((out, state, gradients))
  )


@pytest.mark.parametrize('op, name', IMPLEMENTATIONS)
@pytest.mark.parametrize('size', [0.0, 1e-20, 1e4, 1e8])
def test_extreme_inputs(op, name, size):
  """Zero keys meet zero biases: LN sees no variance at all."""
  arguments = op.arguments(spec_of(name))
  for x in ('q', 'k', 'v'):
    arguments[x] = arguments[x] * size
  if not size:
    for x in op.states:
      if x.startswith('b'):
        arguments[x] = jnp.zeros_like(arguments[x])
  arguments['eta'] = arguments['eta'] / max(1.0, size) ** 2
  result = value_and_gradients(op, arguments, 16, implementation=name)
  for path, x in jax.tree_util.tree_leaves_with_path(result):
    assert jnp.isfinite(x).all(), jax.tree_util.keystr(path)
  with jax.enable_x64(True):
    exact = {n: jnp.asarray(x, jnp.float64) for n, x in arguments.items()}
    want = value_and_gradients(op, exact, 16, implementation='reference')
  for x, y in zip(jax.tree.leaves(result[:2]), jax.tree.leaves(want[:2])):
    assert relative_error(x, y) < 1e-5


@pytest.mark.parametrize('op, name', IMPLEMENTATIONS)
def test_steps_so_large_that_nothing_converges(op, name):
  """With eta of order 10 the weights diverge, but stay finite."""
  arguments = op.arguments(spec_of(name))
  arguments['eta'] = arguments['eta'] * 1e5
  result = value_and_gradients(op, arguments, 16, implementation=name)
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(result))


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
  """They equal the losses of the intermediate states; each step lowers them."""
  with jax.enable_x64(True):
    arguments = op.arguments(SMALL, jnp.float64)
    without_q = {n: x for n, x in arguments.items() if n != 'q'}
    before, after = jax.jit(
      functools.partial(op.inner_losses, mini_batch=mini_batch)
    )(**without_q)
    n = -(-SMALL.tokens // mini_batch)
    assert before.shape == after.shape == (SMALL.batch, SMALL.heads, n)
    assert (after < before).all()

    # With k in place of q, the output contains LN(f(k; W')).
    out, _ = jax.jit(functools.partial(op.call, mini_batch=mini_batch))(
      **{**arguments, 'q': arguments['k']}
    )
    error = jnp.square(out - arguments['v'])
    loss = 0.5 * error.sum(-1)
    for i in range(n):
      tokens = slice(i * mini_batch, (i + 1) * mini_batch)
      np.testing.assert_allclose(
        after[..., i], loss[:, :, tokens].mean(-1), rtol=1e-12
      )


@every_op
@pytest.mark.parametrize(
  'spec',
  [
    # Of two lengths of a model the shorter adds nothing.
    pytest.param(
      spec,
      id=name,
      marks=[pytest.mark.slow] * (name in ('paper_3s', 'quickstart_3s')),
    )
    for name, spec in SPECS.items()
  ],
)
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
