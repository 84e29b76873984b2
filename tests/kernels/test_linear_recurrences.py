"""The gated delta rule and Mamba 2's recurrence against their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.xla import chunks
from tests.helpers import tpu_precision

OPS = ('gated_delta_rule', 'ssd')
B, H, K, V, G = 2, 4, 6, 5, 2


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def draw(op, length, seed=0, dtype=jnp.float64):
  """Arguments of an op, by name."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  uniform = lambda low, high, *shape: jnp.asarray(
    rng.uniform(low, high, shape), dtype
  )
  if op == 'ssd':
    return dict(
      x=normal(B, H, length, V),
      dt=uniform(0, 0.5, B, H, length),
      a=-uniform(0.1, 8, H),
      b=normal(B, G, length, K),
      c=normal(B, G, length, K),
      d=normal(H),
      initial_state=normal(B, H, V, K),
    )
  k = normal(B, H, length, K)
  return dict(
    q=normal(B, H, length, K) / np.sqrt(K),
    k=k / jnp.linalg.norm(k, axis=-1, keepdims=True),
    v=normal(B, H, length, V),
    beta=uniform(0, 1, B, H, length),
    g=-(uniform(0, 3, B, H, length) ** 3),
    initial_state=normal(B, H, K, V),
  )


@functools.partial(jax.jit, static_argnames=('op', 'chunk', 'implementation'))
def run(op, arguments, chunk=8, implementation=None):
  return getattr(pallas_kernels, op)(
    **arguments, chunk=chunk, implementation=implementation
  )


@functools.partial(jax.jit, static_argnames=('op', 'chunk', 'implementation'))
def value_and_gradients(op, arguments, weights, chunk, implementation):
  """Outputs, and gradients of a weighted sum of both, in all arguments."""

  def loss(arguments):
    out = run(op, arguments, chunk=chunk, implementation=implementation)
    return sum(jnp.vdot(w, x) for w, x in zip(weights, out)), out

  (_, out), gradients = jax.value_and_grad(loss, has_aux=True)(arguments)
  return out, gradients


def assert_close(got, want, bound=1e-11):
  def one(path, got, want):
    scale = np.abs(want).max()
    error = np.abs(np.asarray(got) - np.asarray(want)).max()
    assert error <= bound * max(scale, 1e-3), (
      jax.tree_util.keystr(path),
      error,
    )

  jax.tree_util.tree_map_with_path(one, got, want)


@pytest.mark.parametrize('op', OPS)
@pytest.mark.parametrize(('length', 'chunk'), [(1, 16), (31, 8), (21, 64)])
def test_values_states_and_all_gradients(op, length, chunk):
  arguments = draw(op, length)
  weights = jax.tree.map(
    lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape),
    jax.eval_shape(functools.partial(run, op), arguments),
  )
  case = (op, arguments, weights)
  assert_close(
    value_and_gradients(*case, chunk, 'xla'),
    value_and_gradients(*case, chunk, 'reference'),
  )


@pytest.mark.parametrize('op', OPS)
def test_groups_of_chunks_change_nothing_but_memory(op, monkeypatch):
  arguments = draw(op, 61)
  weights = jax.tree.map(
    jnp.ones_like, jax.eval_shape(functools.partial(run, op), arguments)
  )
  case = (op, arguments, weights)
  want = value_and_gradients(*case, 4, 'xla')
  monkeypatch.setattr(chunks, 'CACHED_BYTES', 0)
  for function in (run, value_and_gradients):
    function.clear_cache()  # The budget is no argument.
  assert 'remat' in str(
    jax.make_jaxpr(lambda a: value_and_gradients(op, a, weights, 4, 'xla'))(
      arguments
    )
  )
  assert_close(value_and_gradients(*case, 4, 'xla'), want, 1e-13)
  for function in (run, value_and_gradients):
    function.clear_cache()  # The budget is no argument.


@pytest.mark.parametrize('op', OPS)
def test_two_halves_give_the_whole(op):
  arguments = draw(op, 46)
  out, state = run(op, arguments)
  sequence = {
    name: x
    for name, x in arguments.items()
    if x.ndim > 2 and name != 'initial_state'
  }
  halves = []
  carried = arguments['initial_state']
  for part in (slice(0, 23), slice(23, None)):
    cut = {name: x[:, :, part] for name, x in sequence.items()}
    half, carried = run(
      op,
      arguments | cut | {'initial_state': carried},
    )
    halves.append(half)
  assert_close(jnp.concatenate(halves, axis=2), out)
  assert_close(carried, state)


@pytest.mark.parametrize('op', OPS)
def test_vmap_is_a_loop(op):
  both = [draw(op, 21, seed) for seed in (0, 1)]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *both)
  got = jax.vmap(lambda a: run(op, a))(stacked)
  want = jax.tree.map(lambda *x: jnp.stack(x), *[run(op, a) for a in both])
  assert_close(got, want)


@pytest.mark.parametrize('op', OPS)
def test_without_an_initial_state_it_starts_from_zeros(op):
  arguments = draw(op, 9)
  zeros = jnp.zeros_like(arguments.pop('initial_state'))
  got = run(op, arguments)
  assert_close(got, run(op, arguments | {'initial_state': zeros}), 0)


@pytest.mark.parametrize('op', OPS)
def test_bfloat16_tokens_have_float32_states(op):
  with jax.enable_x64(False):
    arguments = draw(op, 70, dtype=jnp.bfloat16)
    out, state = run(op, arguments, chunk=16)
    assert (out.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
    want, want_state = run(
      op,
      jax.tree.map(lambda x: x.astype(jnp.float32), arguments),
      implementation='reference',
    )
    # The output is rounded once, the state never.
    assert_close(state, want_state, 1e-5)
    assert_close(out.astype(jnp.float32), want, 2**-8)


def test_delta_rule_recalls_exactly():
  """Orthonormal keys, written at rate 1 without decay, are a table."""
  arguments = draw('gated_delta_rule', K)
  keys = jnp.linalg.qr(arguments['k'])[0]
  arguments |= dict(k=keys, beta=jnp.ones((B, H, K)), g=jnp.zeros((B, H, K)))
  _, state = run('gated_delta_rule', arguments)
  assert_close(jnp.einsum('bhkv,bhtk->bhtv', state, keys), arguments['v'])


def test_a_key_written_twice_holds_its_last_value():
  arguments = draw('gated_delta_rule', 2)
  arguments |= dict(
    k=arguments['k'][:, :, [0, 0]],
    beta=jnp.ones((B, H, 2)),
    g=jnp.zeros((B, H, 2)),
  )
  _, state = run('gated_delta_rule', arguments)
  read = jnp.einsum('bhkv,bhk->bhv', state, arguments['k'][:, :, 0])
  assert_close(read, arguments['v'][:, :, 1])


def test_what_writes_nothing_only_decays():
  arguments = draw('gated_delta_rule', 13)
  arguments['beta'] = jnp.zeros_like(arguments['beta'])
  _, state = run('gated_delta_rule', arguments)
  decay = jnp.exp(arguments['g'].sum(-1))[..., None, None]
  assert_close(state, decay * arguments['initial_state'])
  arguments = draw('ssd', 13)
  arguments['x'] = jnp.zeros_like(arguments['x'])
  _, state = run('ssd', arguments)
  decay = jnp.exp(arguments['a'] * arguments['dt'].sum(-1))[..., None, None]
  assert_close(state, decay * arguments['initial_state'])


@pytest.mark.parametrize('forget', [-np.inf, -1e4])
def test_forgetting_everything(forget):
  """Nothing before a token with such a decay is seen after it."""
  arguments = draw('gated_delta_rule', 24)
  arguments['g'] = arguments['g'].at[:, :, 10].set(forget)
  later = {
    name: x[:, :, 10:] for name, x in arguments.items() if x.shape[2:3] == (24,)
  }
  later['initial_state'] = jnp.zeros_like(arguments['initial_state'])
  out, state = run('gated_delta_rule', arguments)
  want, want_state = run('gated_delta_rule', later)
  assert_close(out[:, :, 10:], want)
  assert_close(state, want_state)
  gradient = jax.grad(
    lambda v: run('gated_delta_rule', arguments | {'v': v})[1].sum()
  )(arguments['v'])
  assert np.isfinite(gradient).all() and not gradient[:, :, :10].any()


@pytest.mark.parametrize('op', OPS)
# The first of 5500 chunks contain what 1000 would.
@pytest.mark.parametrize(
  'chunks_', [pytest.param(1000, marks=pytest.mark.slow), 5500]
)
def test_errors_of_long_runs_are_flat(op, chunks_):
  """float32 against float64: the last tokens are as exact as the first."""
  length = 8 * chunks_
  arguments = draw(op, length)
  want, _ = run(op, arguments, implementation='reference')
  got, _ = run(
    op,
    jax.tree.map(lambda x: x.astype(jnp.float32), arguments),
    chunk=8,
  )
  errors = jnp.abs(got - want).max(axis=(0, 1, 3)).reshape(10, -1).max(axis=1)
  assert errors.max() < 1e-4 * jnp.abs(want).max()
  assert errors[-3:].mean() < 3 * errors[:3].mean()


@pytest.mark.parametrize('platform', ['tpu', 'other'])
@pytest.mark.parametrize('op', OPS)
def test_products_of_a_tpu_do_not_round_the_states(op, platform, monkeypatch):
  """States with little decay pass hundreds of chunks, also in gradients."""
  arguments = draw(op, 4 * 400)
  if op == 'ssd':
    arguments['dt'] *= 1e-3
  else:
    arguments['g'] = jnp.full_like(arguments['g'], -1e-4)
    arguments['beta'] *= 0.02

  def out_and_gradients(arguments):
    def loss(arguments):
      out = run.__wrapped__(op, arguments, chunk=4)
      return sum(x.sum() for x in out), out

    (_, out), gradients = jax.value_and_grad(loss, has_aux=True)(arguments)
    return out, gradients

  want = jax.jit(out_and_gradients)(arguments)
  narrow = jax.tree.map(lambda x: x.astype(jnp.float32), arguments)
  if platform == 'tpu':
    tpu_precision.choose_tpu(monkeypatch)
  with tpu_precision.rounded_products():
    got = jax.jit(lambda a: out_and_gradients(a))(narrow)
  assert_close(got, want, 2**-6)
  assert_close(got[0][1], want[0][1], 2**-12)


@pytest.mark.parametrize(
  ('op', 'change', 'message'),
  [
    ('gated_delta_rule', dict(beta=(B, H, 3)), r'beta has shape \(2, 4, 3\)'),
    ('gated_delta_rule', dict(k=(B, H, 9, 3)), r'k has shape .* must be'),
    ('gated_delta_rule', dict(q=(B, H, 9)), 'q has shape .* 4 dimensions'),
    ('gated_delta_rule', dict(initial_state=(B, H, V, K)), 'initial_state has'),
    ('ssd', dict(b=(B, 3, 9, K), c=(B, 3, 9, K)), '3 groups for 4 heads'),
    ('ssd', dict(a=(H + 1,)), 'a has shape'),
    ('ssd', dict(x=(B, H, 0, V)), 'every size'),
  ],
)
def test_bad_arguments_are_one_line(op, change, message):
  arguments = draw(op, 9)
  arguments |= {name: jnp.ones(shape) for name, shape in change.items()}
  with pytest.raises(ValueError, match=message) as error:
    run(op, arguments)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('op', OPS)
def test_a_list_is_no_array(op):
  name, array = next(iter(draw(op, 9).items()))
  arguments = draw(op, 9) | {name: array.tolist()}
  with pytest.raises(ValueError, match=f'^{name} is a list: .* jnp.asarray'):
    getattr(pallas_kernels, op)(**arguments)


@pytest.mark.parametrize('chunk', [0, -1, 1.5, True])
def test_bad_chunks(chunk):
  for op in OPS:
    with pytest.raises(ValueError, match='chunk=.* at least 1'):
      run(op, draw(op, 4), chunk=chunk)
