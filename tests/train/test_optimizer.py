"""Parameter groups, schedules and both optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ttt_jax.checkpoints import train_state
from ttt_jax.train import optimizer


def _params():
  key = jax.random.key(0)
  return dict(
    layers=dict(
      attn=dict(
        kernel=jax.random.normal(key, (3, 8, 4)), bias=jnp.ones((3, 4))
      ),
      ttt=dict(w1=jnp.ones((3, 2, 4, 8)), b1=jnp.ones((3, 2, 8))),
      norm=dict(scale=jnp.ones((3, 8))),
    ),
    patch=dict(kernel=jnp.ones((8, 4)), bias=jnp.ones((4,))),
  )


def _config(*groups, **kwargs):
  return dict(groups=groups, **kwargs)


def test_first_match_wins_and_none_freezes():
  groups = optimizer.assign_groups(
    [
      ('layers/ttt/.*', dict(lr=1.0, name='ttt')),
      ('layers/.*/kernel', dict(lr=2.0, name='kernels')),
      ('layers/ttt/w1', None),
      ('.*', None),
    ],
    _params(),
  )
  assert groups == {
    'layers/attn/bias': None,
    'layers/attn/kernel': 'kernels',
    'layers/norm/scale': None,
    'layers/ttt/b1': 'ttt',
    'layers/ttt/w1': 'ttt',
    'patch/bias': None,
    'patch/kernel': None,
  }


def test_a_regex_matches_complete_paths_only():
  with pytest.raises(ValueError, match='layers/attn/bias'):
    optimizer.assign_groups([('attn', dict(lr=1.0))], _params())


def test_muon_matches_matrices_and_vectors_fall_to_the_next_group():
  groups = optimizer.assign_groups(
    [
      ('.*', dict(lr=1.0, optimizer='muon', name='muon')),
      ('.*', dict(lr=1.0, name='adam')),
    ],
    _params(),
  )
  muon = {k for k, v in groups.items() if v == 'muon'}
  assert muon == {'layers/attn/kernel', 'layers/ttt/w1', 'patch/kernel'}


@pytest.mark.parametrize(
  'group, message',
  [
    (('layers/.*', dict(lr=1.0)), '2 parameters.*patch/kernel'),
    (('.*', None), 'freezes every parameter'),
    (('.*', dict(lr=1.0, rate=1.0)), "unknown key 'rate'"),
    (('.*', dict(lr=1.0, optimizer='sgd')), 'expected one of adamw, muon'),
    (('.*', dict(lr=-1.0)), r'"lr" of parameter group .* is -1.0; .* > 0'),
    (('.*', dict(lr=float('nan'))), 'NaN; expected a number > 0'),
    (('(', dict(lr=1.0)), r"parameter group '\(' is not a valid regex"),
    (('.*', {}), 'has no "lr"'),
  ],
)
def test_invalid_groups(group, message):
  with pytest.raises(ValueError, match=message):
    optimizer.assign_groups([group], _params())


def test_schedules():
  linear = optimizer.schedule('linear', 1.0, steps=10, warmup=2, end_lr=0.2)
  cosine = optimizer.schedule('cosine', 1.0, steps=10, warmup=2, end_lr=0.2)
  got = [float(linear(i)) for i in (0, 1, 2, 6, 10, 20)]
  np.testing.assert_allclose(got, [0.5, 1.0, 1.0, 0.6, 0.2, 0.2], rtol=1e-6)
  got = [float(cosine(i)) for i in (0, 2, 4, 6, 10)]
  quarter = 0.2 + 0.4 * (1 + np.cos(np.pi / 4))
  np.testing.assert_allclose(got, [0.5, 1.0, quarter, 0.6, 0.2], rtol=1e-6)
  with pytest.raises(
    ValueError, match='expected one of constant, linear, cosine'
  ):
    optimizer.schedule('step', 1.0, steps=10)


def test_adamw_matches_its_definition_without_decay_of_biases():
  params = _params()
  config = _config(
    ('.*', dict(lr=0.1, weight_decay=0.5)), betas=(0.9, 0.95), eps=1e-8
  )
  made = optimizer.make_optimizer(config, params, steps=10)
  grads = jax.tree.map(jnp.sin, params)
  updates, _ = made.tx.update(grads, made.tx.init(params), params)
  # After one step both moments are bias-corrected to the gradient itself.
  adam = jax.tree.map(lambda g: -0.1 * g / (jnp.abs(g) + 1e-8), grads)
  for name, decay in (('kernel', 0.5), ('bias', 0.0)):
    want = adam['patch'][name] - 0.1 * decay * params['patch'][name]
    np.testing.assert_allclose(updates['patch'][name], want, rtol=1e-5)
  for path in ('layers/norm/scale', 'layers/ttt/b1', 'layers/attn/bias'):
    np.testing.assert_allclose(
      train_state.flatten(updates)[path],
      train_state.flatten(adam)[path],
      rtol=1e-5,
    )


def test_muon_orthogonalizes_each_layer_separately():
  params = _params()
  config = _config(('.*', dict(lr=1.0, optimizer='muon')), ('.*', dict(lr=1.0)))
  made = optimizer.make_optimizer(config, params, steps=10)
  grads = jax.tree.map(jnp.sin, params)
  # A layer with a gradient 100 times as large moves as far as the others.
  size = jnp.array([1.0, 100.0, 1.0])[:, None, None]
  grads['layers']['attn']['kernel'] *= size
  updates, _ = made.tx.update(grads, made.tx.init(params), params)
  values = np.linalg.svd(updates['layers']['attn']['kernel'])[1]
  assert values.shape == (3, 4)
  assert values.min() > 0.5 and values.max() < 1.3


def test_clip_bounds_the_norm_over_all_groups():
  params = _params()
  config = _config(('.*', dict(lr=1.0)), clip=0.1)
  made = optimizer.make_optimizer(config, params, steps=10)
  grads = jax.tree.map(lambda x: 100.0 * x, params)
  _, state = made.tx.update(grads, made.tx.init(params), params)
  moments = [x for x in jax.tree.leaves(state) if x.ndim]
  first = sum(float(jnp.sum(x**2)) for x in moments[: len(moments) // 2])
  np.testing.assert_allclose(np.sqrt(first), 0.1 * 0.1, rtol=1e-4)


def test_table_counts_parameters():
  from rich import console

  out = console.Console(record=True, width=120, file=open('/dev/null', 'w'))
  layers = ('layers/.*', dict(lr=1e-3, name='all layers'))
  config = _config(layers, ('.*', None))
  out.print(optimizer.group_table(config, _params()))
  text = out.export_text()
  assert 'all layers' in text and '372' in text and '36' in text
  assert '408' in text


def test_muon_in_a_loop_is_optax_muon():
  params = dict(wide=jnp.ones((2, 6, 4)), long=jnp.ones((3, 5)))
  rng = np.random.default_rng(0)
  grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
  config = _config(('.*', dict(lr=0.1, optimizer='muon')))
  ours = optimizer.make_optimizer(config, params, steps=10).tx
  theirs = optax.contrib.muon(
    lambda _: 0.1,
    muon_weight_dimension_numbers=jax.tree.map(
      lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), params
    ),
  )
  states = [tx.init(params) for tx in (ours, theirs)]
  for _ in range(2):
    got, states[0] = ours.update(grads, states[0], params)
    want, states[1] = theirs.update(grads, states[1], params)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
      np.testing.assert_allclose(x, y, rtol=0, atol=1e-6)
  assert optax.tree.get(states[0], 'ns_coeffs').shape == (3,)
