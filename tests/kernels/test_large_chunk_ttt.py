"""Large-chunk TTT against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.large_chunk_ttt import update as update_lib
from pallas_kernels.xla import chunks
from tests.helpers.compare import relative_error

B, H, D, V, K = 2, 2, 4, 3, 6
WEIGHTS = ('w0', 'w1', 'w2')
OPTIONS = [
  dict(update='all', muon=False),
  dict(update='last', muon=False),
  dict(update='all', muon=True),
]
STATIC = ('chunk', 'update', 'muon', 'implementation')


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def draw(length, update='all', muon=False, seed=0, dtype=jnp.float64):
  """Arguments of the op, by name; steps change the weights by some percent."""
  del muon  # Changes none of them.
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  arguments = dict(
    q=unit(normal(B, H, length, D)),
    k=unit(normal(B, H, length, D)),
    v=normal(B, H, length, V),
    eta=rng.uniform(0, 0.1, (B, H, length, 3 if update == 'all' else 1)),
    w0=normal(H, K, D),
    w1=normal(H, V, K),
    w2=normal(B, H, K, D),  # Weights may have a batch axis or not.
  )
  return {name: jnp.asarray(x, dtype) for name, x in arguments.items()}


@functools.partial(jax.jit, static_argnames=STATIC)
def run(arguments, chunk=8, update='all', muon=False, implementation=None):
  return pallas_kernels.large_chunk_ttt(
    **arguments,
    chunk=chunk,
    update=update,
    muon=muon,
    implementation=implementation,
  )


@functools.partial(jax.jit, static_argnames=STATIC)
def value_and_gradients(arguments, **options):
  """Outputs, and gradients of a weighted sum of all, in all arguments."""

  def loss(arguments):
    out = run(arguments, **options)
    leaves = jax.tree.leaves(out)
    weights = [jnp.cos(jnp.arange(x.size)).reshape(x.shape) for x in leaves]
    return sum(map(jnp.vdot, weights, leaves)), out

  (_, out), gradients = jax.value_and_grad(loss, has_aux=True)(arguments)
  return out, gradients


def close(got, want, bound=1e-11):
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    assert relative_error(one, other) < bound


def norms(w):
  return jnp.linalg.norm(w, axis=-1)


@pytest.mark.parametrize('options', OPTIONS)
@pytest.mark.parametrize(('length', 'chunk'), [(21, 8), (5, 64)])
def test_values_states_and_all_gradients(options, length, chunk):
  arguments = draw(length, **options)
  options = dict(options, chunk=chunk)
  close(
    value_and_gradients(arguments, implementation='xla', **options),
    value_and_gradients(arguments, implementation='reference', **options),
    1e-9,
  )


def test_groups_of_chunks_change_nothing_but_memory(monkeypatch):
  arguments = draw(61)
  want = value_and_gradients(arguments, chunk=4)
  monkeypatch.setattr(chunks, 'KEPT_BYTES', 0)
  for function in (run, value_and_gradients):
    function.clear_cache()  # The budget is no argument.
  close(value_and_gradients(arguments, chunk=4), want, 1e-12)
  traced = str(
    jax.make_jaxpr(lambda a: value_and_gradients(a, chunk=4))(arguments)
  )
  # Sixteen chunks are four groups of four, each with its first weights kept.
  assert 'length=4' in traced and 'length=16' not in traced
  for function in (run, value_and_gradients):
    function.clear_cache()


def test_two_halves_give_the_whole():
  arguments = draw(32)
  out, state = run(arguments)
  tokens = {name: arguments[name] for name in ('q', 'k', 'v', 'eta')}
  weights, halves = {name: arguments[name] for name in WEIGHTS}, []
  for part in (slice(16), slice(16, None)):
    half, weights = run(
      {name: x[:, :, part] for name, x in tokens.items()} | weights
    )
    weights = dict(zip(WEIGHTS, weights))
    halves.append(half)
  close((jnp.concatenate(halves, axis=2), *weights.values()), (out, *state))


def test_padding_leaves_the_weights():
  arguments = draw(13)
  out, state = run(arguments)
  padded = dict(arguments)
  for name in ('q', 'k', 'v'):
    more = jnp.ones_like(arguments[name])
    padded[name] = jnp.concatenate([arguments[name], more], axis=2)
  padded['eta'] = jnp.pad(arguments['eta'], [(0, 0), (0, 0), (0, 13), (0, 0)])
  got, got_state = run(padded)
  close((got[:, :, :13], got_state), (out, state))


@pytest.mark.parametrize('options', OPTIONS)
def test_rate_0_leaves_the_weights_as_they_are(options):
  """Muon orthogonalises the update, not the weights."""
  arguments = draw(21, **options)
  arguments['eta'] = jnp.zeros_like(arguments['eta'])
  out, state = run(arguments, **options)
  for name, w in zip(WEIGHTS, state):
    close(w, np.broadcast_to(arguments[name], w.shape), 1e-15)
  close(out, run(arguments, chunk=64, **options)[0])
  gradient = jax.grad(lambda a: run(a, **options)[0].sum())(arguments)
  assert all(np.isfinite(x).all() for x in gradient.values())


@pytest.mark.parametrize('options', OPTIONS)
def test_rows_keep_their_norms(options):
  arguments = draw(64, **options)
  _, state = run(arguments, **options)
  for name, w in zip(WEIGHTS, state):
    start = np.broadcast_to(arguments[name], w.shape)
    close(norms(w), norms(start), 1e-12)
    moved = relative_error(w, start) > 1e-3
    assert moved == (name == 'w1' or options['update'] == 'all')


@pytest.mark.parametrize('options', OPTIONS)
def test_a_step_lowers_the_inner_loss(options):
  arguments = draw(8, **options)
  arguments['eta'] *= 0.1
  del arguments['q']
  before, after = pallas_kernels.large_chunk_ttt_inner_losses(
    **arguments, chunk=8, **options
  )
  assert before.shape == (B, H, 1)
  assert options['muon'] or (after < before).all()
  # The loss is that of the outputs when queries are keys.
  out, _ = run(arguments | {'q': arguments['k']}, **options)
  close(-(out * arguments['v']).sum(-1).mean(-1), after[..., 0])


def test_one_chunk_does_not_depend_on_the_order_of_its_tokens():
  arguments = draw(16)
  turned = {
    name: x if name in WEIGHTS else x[:, :, ::-1]
    for name, x in arguments.items()
  }
  out, state = run(arguments, chunk=16)
  got, got_state = run(turned, chunk=16)
  close((got[:, :, ::-1], got_state), (out, state))


def test_orthogonalized_updates_have_singular_values_near_1():
  x = np.random.default_rng(0).normal(size=(2, 7, 4))
  got = update_lib.orthogonalize(jnp.asarray(x))
  values = np.linalg.svd(got, compute_uv=False)
  assert 0.6 < values.min() and values.max() < 1.3
  u, _, v = np.linalg.svd(x, full_matrices=False)
  # Singular vectors stay: u^T x v is diagonal.
  inner = np.swapaxes(u, -1, -2) @ got @ np.swapaxes(v, -1, -2)
  close(inner, np.eye(4) * inner)
  turned = update_lib.orthogonalize(jnp.asarray(x.swapaxes(-1, -2)))
  close(turned.swapaxes(-1, -2), got)


def test_vmap_is_a_loop():
  both = [draw(21, seed=seed) for seed in (0, 1)]
  stack = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
  close(jax.vmap(run)(stack(*both)), stack(*map(run, both)))


def test_bfloat16_tokens_have_float32_states():
  with jax.enable_x64(False):
    arguments = draw(70, dtype=jnp.float32)
    arguments |= {name: arguments[name].astype(jnp.bfloat16) for name in 'qkv'}
    (out, state), gradients = value_and_gradients(arguments, chunk=16)
    assert out.dtype == jnp.bfloat16 and gradients['q'].dtype == jnp.bfloat16
    assert all(x.dtype == jnp.float32 for x in state)
    wide = {name: x.astype(jnp.float32) for name, x in arguments.items()}
    (want, want_state), want_gradients = value_and_gradients(
      wide, chunk=16, implementation='reference'
    )
    close(out.astype(jnp.float32), want, 0.02)
    close(state, want_state, 0.01)
    for name in WEIGHTS:
      close(gradients[name], want_gradients[name], 0.05)


def test_errors_of_long_runs_are_flat():
  """float32 against float64 over the chunks of an hour."""
  arguments = draw(4 * 5500)
  arguments['eta'] *= 0.1
  want, _ = run(arguments, chunk=4)
  got, _ = run(
    jax.tree.map(lambda x: x.astype(jnp.float32), arguments), chunk=4
  )
  errors = np.abs(got - want).max(axis=(0, 1, 3)).reshape(10, -1).max(axis=1)
  assert errors.max() < 1e-3 * np.abs(want).max(), errors
  assert errors[-3:].mean() < 3 * errors[:3].mean(), errors


@pytest.mark.parametrize(
  ('change', 'options', 'message'),
  [
    (dict(k=(B, H, 8, 9)), {}, 'k has shape'),
    (dict(eta=(B, H, 9, 2)), {}, r"with update='all' it must be \(2, 2, 9, 3"),
    ({}, dict(update='last'), r'it must be \(2, 2, 9, 1\)'),
    ({}, dict(update='first'), "update='first'; expected one of 'all', 'last'"),
    (dict(w1=(H, K, V)), {}, r'w1 has shape .* \[H, V, K\] must be'),
    (dict(w2=(H, K + 1, D)), {}, 'w2 has shape'),
    ({}, dict(chunk=0), 'chunk=0 must be an int of at least 1'),
  ],
)
def test_bad_arguments_are_one_line(change, options, message):
  arguments = draw(9)
  arguments |= {name: jnp.ones(shape) for name, shape in change.items()}
  with pytest.raises(ValueError, match=message) as error:
    run(arguments, **options)
  assert '\n' not in str(error.value)
