"""Autoencoder folders in and out: types, several files, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tests.helpers import tiny_vae
from ttt_jax import sharding
from ttt_jax.convert import load_vae
from ttt_jax.convert import save_vae

CONFIG = tiny_vae.CONFIG


@pytest.fixture(scope='module', name='params')
def _params():
  return tiny_vae.parameters(CONFIG)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, np.float16, np.float32])
def test_types_and_several_files(params, tmp_path, dtype):
  save_vae(CONFIG, params, tmp_path / 'a/vae', dtype=dtype, shard_bytes=9_000)
  files = list((tmp_path / 'a/vae').glob('*.safetensors'))
  assert len(files) > 2
  config, found = load_vae(tmp_path / 'a', dtype=None)
  assert config == CONFIG
  assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype(dtype)}
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a.astype(dtype), b),
    params,
    found,
  )
  save_vae(config, found, tmp_path / 'b', shard_bytes=9_000)
  for path in files:
    assert path.read_bytes() == (tmp_path / 'b' / path.name).read_bytes()
  _, wide = load_vae(tmp_path / 'b')
  assert {x.dtype for x in jax.tree.leaves(wide)} == {np.dtype(np.float32)}


def test_straight_onto_a_mesh(params, tmp_path):
  save_vae(CONFIG, params, tmp_path)
  mesh = sharding.make_mesh(dict(data=1))
  copies = sharding.replicated(mesh)
  _, found = load_vae(tmp_path, sharding=lambda leaf: copies)
  assert all(x.sharding == copies for x in jax.tree.leaves(found))
  jax.tree.map(np.testing.assert_array_equal, params, found)


def test_existing_weights_are_not_replaced(params, tmp_path):
  save_vae(CONFIG, params, tmp_path)
  with pytest.raises(FileExistsError, match='is not replaced'):
    save_vae(CONFIG, params, tmp_path)


def test_a_missing_shard_and_integers(params, tmp_path):
  save_vae(CONFIG, params, tmp_path, shard_bytes=9_000)
  path = sorted(tmp_path.glob('*.safetensors'))[1]
  tensors = safetensors_numpy.load_file(path)
  key = sorted(tensors)[0]
  tensors[key] = tensors[key].astype(np.int8)
  safetensors_numpy.save_file(tensors, path)
  with pytest.raises(ValueError, match=f'{key} has type I8'):
    load_vae(tmp_path)
  path.unlink()
  with pytest.raises(FileNotFoundError, match=f'do not exist: {path.name}'):
    load_vae(tmp_path)
