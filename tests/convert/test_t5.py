"""T5 folders in and out: completeness, exactness, errors."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from ttt_jax import sharding
from ttt_jax.convert import load_t5
from ttt_jax.convert import save_t5


@pytest.fixture(name='tiny')
def _tiny(fixtures):
  return fixtures / 'tiny_t5/text_encoder'


@pytest.fixture(name='copy')
def _copy(tiny, tmp_path):
  return shutil.copytree(tiny, tmp_path / 'text_encoder')


def change(folder, **fields):
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_there_and_back_is_exact(tiny, tmp_path):
  config, params = load_t5(tiny)
  save_t5(config, params, tmp_path)
  want = safetensors_numpy.load_file(tiny / 'model.safetensors')
  found = safetensors_numpy.load_file(tmp_path / 'model.safetensors')
  assert want.keys() == found.keys()
  for key, value in want.items():
    np.testing.assert_array_equal(value, found[key])
  assert load_t5(tmp_path)[0] == config
  with pytest.raises(FileExistsError, match='is not replaced'):
    save_t5(config, params, tmp_path)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, np.float16, np.float32])
def test_types_of_files_are_kept(tiny, tmp_path, dtype):
  config, params = load_t5(tiny)
  save_t5(config, params, tmp_path / 'a', dtype=dtype, shard_bytes=9000)
  _, found = load_t5(tmp_path / 'a')
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a.astype(dtype), b),
    params,
    found,
  )
  assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype(dtype)}
  save_t5(config, found, tmp_path / 'b', shard_bytes=9000)
  for path in sorted((tmp_path / 'a').iterdir()):
    assert path.read_bytes() == (tmp_path / 'b' / path.name).read_bytes()


def test_straight_onto_a_mesh(tiny):
  mesh = sharding.make_mesh(dict(data=1))
  place = functools.partial(sharding.param_sharding, mesh)
  config, params = load_t5(tiny.parent, dtype=jnp.bfloat16, sharding=place)
  assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(params))
  _, host = load_t5(tiny, dtype=jnp.bfloat16)
  jax.tree.map(np.testing.assert_array_equal, params, host)
  assert config.dtype == 'float32'


def test_the_encoder_of_a_complete_t5(copy):
  path = copy / 'model.safetensors'
  tensors = safetensors_numpy.load_file(path)
  more = {
    'encoder.embed_tokens.weight': tensors['shared.weight'],
    'decoder.block.0.layer.0.SelfAttention.q.weight': np.ones((2, 2)),
    'lm_head.weight': np.ones((2, 2)),
  }
  safetensors_numpy.save_file(tensors | more, path)
  load_t5(copy)


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(feed_forward_proj='relu'), "'relu': only 'gated-gelu'"),
    (dict(model_type='umt5'), "model_type = 'umt5': only 't5'"),
    (dict(d_ff=40, num_layers=3), r'problem\(s\).*layers/(.|\n)*layers/'),
  ],
)
def test_configs_that_do_not_fit(copy, fields, message):
  change(copy, **fields)
  with pytest.raises(ValueError, match=message) as e:
    load_t5(copy)
  assert str(e.value).count('\n') <= 11


def test_missing_and_damaged(copy):
  path = copy / 'config.json'
  found = json.loads(path.read_text())
  del found['d_kv'], found['num_heads']
  path.write_text(json.dumps(found))
  with pytest.raises(ValueError, match='config.json lacks num_heads, d_kv'):
    load_t5(copy)
  weights = copy / 'model.safetensors'
  weights.write_bytes(weights.read_bytes()[:1000])
  change(copy, d_kv=6, num_heads=4)
  with pytest.raises(ValueError, match='not a complete safetensors file'):
    load_t5(copy)
  path.unlink()
  with pytest.raises(FileNotFoundError, match='no config.json in'):
    load_t5(copy)


def test_integers_are_not_weights(copy):
  path = copy / 'model.safetensors'
  tensors = safetensors_numpy.load_file(path)
  tensors['shared.weight'] = tensors['shared.weight'].astype(np.int32)
  safetensors_numpy.save_file(tensors, path)
  with pytest.raises(ValueError, match='shared.weight has type I32'):
    load_t5(copy)
