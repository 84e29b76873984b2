"""The T5 encoder against transformers, and its sizes.

fixtures/tiny_t5 was written by transformers, see fixtures/make_t5.py. The
golden file is larger and was written by another version.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import compare
from tests.helpers import jaxprs
from ttt_jax.convert import t5 as convert_t5
from ttt_jax.encoders import load_text as encoder_lib
from ttt_jax.models.text import t5


@pytest.fixture(name='tiny')
def _tiny(fixtures):
  return fixtures / 'tiny_t5'


@functools.partial(jax.jit, static_argnums=0)
def apply(config, params, ids):
  return t5.T5Encoder(config).apply({'params': params}, ids)


@pytest.mark.optimized
def test_states_of_the_reference(golden):
  folder = golden('t5')
  config, params = convert_t5.load_t5(folder)
  with np.load(folder / 'io.npz') as io:
    states = apply(config, params, io['input_ids'])
    assert compare.relative_error(states, io['last_hidden_state']) < 1e-5
    # Tokens attend to padding: a mask would change the states.
    assert compare.relative_error(states, io['last_hidden_state_masked']) > 0.1
    buckets = t5.relative_position_buckets(
      24, config.num_buckets, config.max_distance
    )
    np.testing.assert_array_equal(
      params['relative_bias']['embedding'][buckets].transpose(2, 0, 1),
      io['position_bias'][0],
    )


def test_states_of_a_tiny_t5(tiny):
  config, params = convert_t5.load_t5(tiny)
  want = np.load(tiny / 'states.npz')
  assert (
    compare.relative_error(apply(config, params, want['ids']), want['states'])
    < 1e-5
  )


def test_bfloat16_keeps_norms_softmax_and_residuals_in_float32(tiny):
  config, params = convert_t5.load_t5(
    tiny, compute_dtype='bfloat16', dtype=jnp.bfloat16
  )
  assert params['layers']['up']['kernel'].dtype == jnp.bfloat16
  want = np.load(tiny / 'states.npz')
  jaxpr = jax.make_jaxpr(lambda p, i: apply(config, p, i))(params, want['ids'])
  ops = list(jaxprs.operations(jaxpr, ('rsqrt', 'exp', 'reduce_sum')))
  assert {name for name, _ in ops} == {'rsqrt', 'exp', 'reduce_sum'}
  assert {dtype for _, dtype in ops} == {np.dtype(np.float32)}
  states = apply(config, params, want['ids'])
  assert states.dtype == jnp.float32
  assert 1e-4 < compare.relative_error(states, want['states']) < 0.06


def test_the_defaults_are_xxl():
  params = t5.abstract_params(t5.T5Config())
  # T5 v1.1 XXL's encoder with its embedding.
  assert sum(x.size for x in jax.tree.leaves(params)) == 4_762_310_656
  states = jax.eval_shape(
    lambda p, ids: apply(t5.T5Config(), p, ids),
    params,
    jax.ShapeDtypeStruct((2, 226), jnp.int32),
  )
  assert states.shape == (2, 226, 4096) and states.dtype == jnp.float32


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(dtype='float16'), "'float16'; expected one of float32, bfloat16"),
    (dict(num_buckets=30), 'num_buckets 30 is not a multiple'),
    (dict(max_distance=8), 'max_distance 8 is not above .* 32 buckets'),
  ],
)
def test_sizes_that_cannot_work(fields, message):
  with pytest.raises(ValueError, match=message):
    t5.T5Config(**fields)


def test_buckets_by_hand():
  row = t5.relative_position_buckets(300, 32, 128)[100]
  # Exact up to 7, then logarithmic; keys after the query have 16 more.
  assert row[100:108].tolist() == [0, 17, 18, 19, 20, 21, 22, 23]
  assert row[93:100].tolist() == [7, 6, 5, 4, 3, 2, 1]
  assert row[108] == 24 and row[116] == 26 and row[132] == 28
  assert (row[228:] == 31).all() and row[0] == 15


def test_texts_to_states(tiny):
  want = np.load(tiny / 'states.npz')
  encoder = encoder_lib.load_text_encoder(tiny, want['ids'].shape[1])
  texts = want['texts'].tolist()
  together = encoder.encode(texts * 3)
  assert compare.relative_error(together[: len(texts)], want['states']) < 1e-5
  np.testing.assert_array_equal(together[: len(texts)], together[-len(texts) :])
  assert together.dtype == np.float32 and encoder.width == 16
  assert together[3, 1:].any()  # padding stays
  for text, ids in zip(texts, want['ids']):
    assert encoder.count_tokens(text) == (ids > 0).sum()
  assert encoder.scene_token_ids == tuple(want['scene_token_ids'])
  with pytest.raises(ValueError, match='has 20 tokens; at most 5 fit'):
    encoder_lib.load_text_encoder(tiny, 5).encode(texts)


def test_it_compiles_once(tiny):
  encoder = encoder_lib.load_text_encoder(tiny, 6)
  encoder.encode(['a'])
  with jax.no_tracing():
    encoder.encode(['a', 'cat'] + ['dog', 'it'] * 20)


def test_identity_depends_on_the_contents(tiny, tmp_path):
  load = lambda folder, **k: encoder_lib.load_text_encoder(folder, 8, **k)
  identity = load(tiny).identity
  assert identity.startswith('t5:') and len(identity) == 19
  config, params = convert_t5.load_t5(tiny)
  save = lambda name, params, **k: (
    convert_t5.save_t5(config, params, tmp_path / name / 'text_encoder', **k),
    (tmp_path / name / 'tokenizer').symlink_to((tiny / 'tokenizer').absolute()),
  )
  save('shards', params, shard_bytes=9000)
  assert len(list((tmp_path / 'shards/text_encoder').iterdir())) > 4
  assert load(tmp_path / 'shards').identity == identity
  assert load(tmp_path / 'shards/text_encoder').identity == identity
  params['final_norm']['scale'][0] += 1e-3
  save('changed', params)
  assert load(tmp_path / 'changed').identity != identity
  half = load(tiny, dtype='bfloat16').identity
  assert half == identity.replace('t5:', 't5-bfloat16:')


def test_a_config_is_hashable_and_comparable():
  config = t5.T5Config()
  assert config == dataclasses.replace(config) and hash(config)
