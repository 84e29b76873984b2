"""The frame-wise delta rule against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.xla import chunks
from pallas_kernels.xla import positive_definite
from tests.helpers import tpu_precision
from tests.helpers.compare import relative_error

B, H, K, V = 2, 3, 5, 4
# Texts and frames, of which the last is cut.
MIXED = (3, 6, 6, 3, 6, 2)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def draw(count, length, seed=0, dtype=jnp.float64):
  """Arguments of the op for `count` frames, by name."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  arguments = dict(
    q=unit(normal(B, H, length, K)),
    k=unit(normal(B, H, length, K)),
    v=normal(B, H, length, V),
    beta=rng.uniform(0, 1, (B, H, length)),
    g=-(rng.uniform(0, 1, (B, H, count, K)) ** 3),
    initial_state=normal(B, H, V, K),
  )
  return {name: jnp.asarray(x, dtype) for name, x in arguments.items()}


@functools.partial(jax.jit, static_argnames=('frames', 'implementation'))
def run(arguments, frames, implementation=None):
  return pallas_kernels.frame_delta_rule(
    **arguments, frames=frames, implementation=implementation
  )


@functools.partial(jax.jit, static_argnames=('frames', 'implementation'))
def value_and_gradients(arguments, frames, implementation):
  """Outputs, and gradients of a weighted sum of both, in all arguments."""

  def loss(arguments):
    out = run(arguments, frames, implementation)
    weights = [jnp.cos(jnp.arange(x.size)).reshape(x.shape) for x in out]
    return sum(map(jnp.vdot, weights, out)), out

  (_, out), gradients = jax.value_and_grad(loss, has_aux=True)(arguments)
  return out, gradients


def close(got, want, bound=1e-11):
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    assert relative_error(one, other) < bound


@pytest.mark.parametrize(
  ('frames', 'count', 'length'),
  [(MIXED, 6, 26), (7, 4, 26), (1, 6, 6), ((9,), 1, 9)],
)
def test_values_states_and_all_gradients(frames, count, length):
  arguments = draw(count, length)
  close(
    value_and_gradients(arguments, frames, 'xla'),
    value_and_gradients(arguments, frames, 'reference'),
  )


def test_groups_of_frames_change_nothing_but_memory(monkeypatch):
  arguments = draw(6, 26)
  want = value_and_gradients(arguments, MIXED, 'xla')
  monkeypatch.setattr(chunks, 'KEPT_BYTES', 0)
  for function in (run, value_and_gradients):
    function.clear_cache()  # The budget is no argument.
  traced = jax.make_jaxpr(value_and_gradients, static_argnums=(1, 2))
  assert 'remat' in str(traced(arguments, MIXED, 'xla'))
  close(value_and_gradients(arguments, MIXED, 'xla'), want, 1e-13)
  for function in (run, value_and_gradients):
    function.clear_cache()


def test_two_halves_give_the_whole():
  arguments = draw(6, 26)
  out, state = run(arguments, MIXED)
  carried, halves = arguments['initial_state'], []
  for tokens, frames in (
    (slice(15), slice(3)),
    (slice(15, None), slice(3, None)),
  ):
    part = {name: arguments[name][:, :, tokens] for name in 'qkv'}
    part |= dict(
      beta=arguments['beta'][:, :, tokens],
      g=arguments['g'][:, :, frames],
      initial_state=carried,
    )
    half, carried = run(part, MIXED[frames])
    halves.append(half)
  close((jnp.concatenate(halves, axis=2), carried), (out, state))


def test_padding_and_frames_without_tokens_leave_the_state():
  """Tokens of beta 0 after the end are read, but not written."""
  arguments = draw(2, 12)
  out, state = run(arguments, 6)
  padded = {
    name: jnp.concatenate([x, jnp.ones_like(x[:, :, :5])], axis=2)
    for name, x in arguments.items()
    if name in 'qkv'
  }
  zeros = jnp.zeros_like(arguments['beta'][:, :, :5])
  padded |= dict(
    beta=jnp.concatenate([arguments['beta'], zeros], axis=2),
    g=jnp.pad(arguments['g'], [(0, 0), (0, 0), (0, 1), (0, 0)]),
    initial_state=arguments['initial_state'],
  )
  got, got_state = run(padded, (6, 6, 5))
  close((got[:, :, :12], got_state), (out, state))


def test_lengths_of_frames_may_be_an_array():
  arguments = draw(6, 26)
  close(
    pallas_kernels.frame_delta_rule(**arguments, frames=np.array(MIXED)),
    run(arguments, MIXED),
    1e-13,
  )


def test_order_within_a_frame_does_not_matter():
  """The reverse of the reverse of a frame, too, is what it was."""
  arguments = draw(2, 12)
  turned = {
    name: x[:, :, [*range(5, -1, -1), *range(6, 12)]]
    for name, x in arguments.items()
    if x.shape[2] == 12
  }
  out, state = run(arguments, 6)
  got, got_state = run(arguments | turned, 6)
  close((got[:, :, 5::-1], got_state), (out[:, :, :6], state))


def test_a_token_per_frame_is_the_gated_delta_rule():
  arguments = draw(8, 8)
  arguments['g'] = jnp.broadcast_to(
    arguments['g'][..., :1], arguments['g'].shape
  )
  out, state = run(arguments, 1)
  beta = arguments['beta']
  want, want_state = pallas_kernels.gated_delta_rule(
    **{name: arguments[name] for name in 'qkv'},
    beta=beta / (1 + beta),
    g=arguments['g'][..., 0],
    initial_state=arguments['initial_state'].swapaxes(-1, -2),
  )
  close((out, state), (want, want_state.swapaxes(-1, -2)))


def test_what_writes_nothing_only_decays():
  arguments = draw(6, 26)
  arguments['beta'] = jnp.zeros_like(arguments['beta'])
  _, state = run(arguments, MIXED)
  decay = jnp.exp(arguments['g'].sum(2))[:, :, None]
  close(state, decay * arguments['initial_state'])


def test_strong_writes_of_orthonormal_keys_are_recalled():
  arguments = draw(1, K)
  keys = jnp.linalg.qr(arguments['k'])[0]
  arguments |= dict(
    k=keys,
    q=keys,
    beta=jnp.full((B, H, K), 1e9),
    g=jnp.zeros((B, H, 1, K)),
  )
  close(run(arguments, K)[0], arguments['v'], 1e-8)


def test_a_repeated_key_recalls_its_mean_and_not_its_sum():
  """A frame of one colour is written once, however many tokens it has."""
  arguments = draw(1, 200)
  key = jnp.broadcast_to(arguments['k'][:, :, :1], arguments['k'].shape)
  arguments |= dict(k=key, q=key, beta=jnp.ones((B, H, 200)))
  arguments['initial_state'] *= 0
  want = arguments['v'].sum(2, keepdims=True) / 201
  out, _ = run(arguments, 200)
  close(out, jnp.broadcast_to(want, out.shape))


def test_forgetting_everything():
  arguments = draw(4, 24)
  arguments['g'] = arguments['g'].at[:, :, 2].set(-jnp.inf)
  later = {
    name: x[:, :, 2:] if name == 'g' else x[:, :, 12:]
    for name, x in arguments.items()
    if name != 'initial_state'
  }
  out, state = run(arguments, 6)
  want, want_state = run(later, 6)
  close((out[:, :, 12:], state), (want, want_state))
  gradient = jax.grad(lambda v: run(arguments | {'v': v}, 6)[1].sum())(
    arguments['v']
  )
  assert np.isfinite(gradient).all() and not gradient[:, :, :12].any()


def test_vmap_is_a_loop():
  both = [draw(6, 26, seed) for seed in (0, 1)]
  stack = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
  got = jax.vmap(lambda a: run(a, MIXED))(stack(*both))
  close(got, stack(*[run(a, MIXED) for a in both]))


def test_bfloat16_tokens_have_float32_states():
  """Nearly equal keys, whose A must not lose its eigenvalues of 0."""
  with jax.enable_x64(False):
    arguments = draw(2, 600, dtype=jnp.float32)
    same = arguments['k'][:, :, :1] + 0.01 * arguments['k']
    arguments['k'] = same / jnp.linalg.norm(same, axis=-1, keepdims=True)
    arguments = jax.tree.map(lambda x: x.astype(jnp.bfloat16), arguments)
    out, state = run(arguments, 300)
    assert (out.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
    want, want_state = run(
      jax.tree.map(lambda x: x.astype(jnp.float32), arguments),
      300,
      'reference',
    )
    close(state, want_state, 1e-4)
    close(out.astype(jnp.float32), want, 2**-8)


def test_errors_of_long_runs_are_flat():
  """float32 against float64 over the 253 frames of a minute."""
  arguments = draw(253, 253 * 4)
  want, _ = run(arguments, 4)
  got, _ = run(jax.tree.map(lambda x: x.astype(jnp.float32), arguments), 4)
  errors = np.abs(got - want).max(axis=(0, 1, 3))[:1000].reshape(10, -1)
  assert errors.max() < 1e-5 * np.abs(want).max()
  assert errors[-3:].mean() < 3 * errors[:3].mean()


def test_products_of_a_tpu_do_not_round_the_states():
  arguments = draw(253, 253 * 4)
  arguments |= dict(g=arguments['g'] * 1e-3, beta=arguments['beta'] * 0.02)
  want = run(arguments, 4)
  with tpu_precision.rounded_products():
    got = jax.jit(lambda a: run.__wrapped__(a, 4))(
      jax.tree.map(lambda x: x.astype(jnp.float32), arguments)
    )
  close(got[0], want[0], 2**-6)
  # What is written is rounded, and averages out.
  close(got[1], want[1], 2**-8)


def test_products_of_a_tpu_do_not_round_what_similar_keys_write():
  arguments = draw(3, 3 * 200)
  k = arguments['k'] + 5
  arguments |= dict(
    k=k / jnp.linalg.norm(k, axis=-1, keepdims=True), v=arguments['v'] + 3
  )
  want = run(arguments, 200)
  with tpu_precision.rounded_products():
    got = jax.jit(lambda a: run.__wrapped__(a, 200))(
      jax.tree.map(lambda x: x.astype(jnp.float32), arguments)
    )
  close(got, want, 2**-5)


@pytest.mark.parametrize('size', [1, 5, 16, 50])
def test_inverse_of_positive_definite_matrices(size):
  """Values and gradients; in float32 as exact as LAPACK's."""
  rng = np.random.default_rng(size)
  # Keys that are nearly the same: a condition number of thousands.
  keys = rng.normal(size=(3, 1350, size)) + 5 * rng.normal(size=(3, 1, size))
  keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
  a = jnp.asarray(np.eye(size) + keys.swapaxes(1, 2) @ keys)
  ours, theirs = (
    jax.jit(
      lambda a, inverse=inverse: (
        inverse(a),
        jax.grad(lambda a: jnp.sin(inverse(a)).sum())(a),
      )
    )
    for inverse in (positive_definite.inverse, jnp.linalg.inv)
  )
  want = theirs(a)
  close(ours(a), want)
  error = lambda inverse: np.abs(inverse(jnp.float32(a)) - want[0]).max()
  assert error(positive_definite.inverse) < 3 * error(jnp.linalg.inv) + 1e-7


@pytest.mark.parametrize(
  ('change', 'frames', 'message'),
  [
    (dict(beta=(B, H, 3)), 6, r'beta has shape \(2, 3, 3\)'),
    (dict(g=(B, H, 3, K)), 6, 'for 3 frames: frames=6 gives 2'),
    (dict(initial_state=(B, H, K, V)), 6, 'initial_state has shape'),
    ({}, 0, 'frames=0 must be an int of at least 1'),
    ({}, (6, 2.5), 'frames=2.5 must be an int'),
    ({}, (6, 5), 'frames sum to 11 tokens: the sum must be T, 12'),
  ],
)
def test_bad_arguments_are_one_line(change, frames, message):
  arguments = draw(2, 12)
  arguments |= {name: jnp.ones(shape) for name, shape in change.items()}
  with pytest.raises(ValueError, match=message) as error:
    run(arguments, frames)
  assert '\n' not in str(error.value)
