"""Weights in safetensors files: reading and refusals."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from ttt_jax.convert import safetensors_reader


def save(path, **tensors):
  safetensors_numpy.save_file(tensors, path)


def shards(folder, **places):
  """Writes two files, and an index with `places`."""
  save(folder / 'm-1.safetensors', a=np.ones((2, 3), np.float32))
  save(folder / 'm-2.safetensors', b=np.zeros(4, np.float16))
  index = dict(metadata={}, weight_map=places)
  (folder / 'm.safetensors.index.json').write_text(json.dumps(index))


@pytest.mark.parametrize(
  'dtype', [np.float64, np.float32, np.float16, jnp.bfloat16]
)
def test_types_are_kept(tmp_path, dtype):
  value = np.arange(6).reshape(2, 3).astype(dtype)
  save(tmp_path / 'm.safetensors', a=value)
  tensors = safetensors_reader.open_folder(tmp_path, 'm')
  assert tensors['a'].shape == (2, 3) and tensors['a'].dtype == value.dtype
  np.testing.assert_array_equal(np.asarray(tensors['a']), value)
  assert np.asarray(tensors['a'], np.float32).dtype == np.float32


def test_shards(tmp_path):
  shards(tmp_path, a='m-1.safetensors', b='m-2.safetensors')
  tensors = safetensors_reader.open_folder(tmp_path, 'm')
  assert set(tensors) == {'a', 'b'}
  np.testing.assert_array_equal(np.asarray(tensors['a']), np.ones((2, 3)))


def test_missing_shard(tmp_path):
  shards(tmp_path, a='m-1.safetensors', b='m-2.safetensors')
  (tmp_path / 'm-2.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match='do not exist: m-2.safetensors;'):
    safetensors_reader.open_folder(tmp_path, 'm')


def test_an_index_that_does_not_fit_lists_every_difference(tmp_path):
  shards(
    tmp_path, a='m-1.safetensors', c='m-1.safetensors', d='m-2.safetensors'
  )
  with pytest.raises(ValueError) as e:
    safetensors_reader.open_folder(tmp_path, 'm')
  message = str(e.value)
  assert '3 problem(s)' in message and '\n' not in message
  assert 'c is not in m-1.safetensors' in message
  assert 'd is not in m-2.safetensors' in message
  assert 'b in m-2.safetensors is not in the index' in message


def test_names_with_line_breaks(tmp_path):
  shards(
    tmp_path,
    **{
      'a': 'm-1.safetensors',
      'x\ny': 'm-2.safetensors',
      'b': 'm-2.safetensors',
    },
  )
  with pytest.raises(ValueError, match=r'x\\ny is not in m-2') as e:
    safetensors_reader.open_folder(tmp_path, 'm')
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'content',
  [
    '',
    '[]',
    '{"weight_map": {}}',
    '{"weight_map": {"a": "../m.bin"}}',
    '{"weight_map": {"a": 3}}',
  ],
)
def test_invalid_index(tmp_path, content):
  (tmp_path / 'm.safetensors.index.json').write_text(content)
  with pytest.raises(ValueError, match='weight_map|not JSON'):
    safetensors_reader.open_folder(tmp_path, 'm')


@pytest.mark.parametrize('end', [0, 5, 60, -1])
def test_truncated_file(tmp_path, end):
  path = tmp_path / 'm.safetensors'
  save(path, a=np.ones((2, 3), np.float32))
  path.write_bytes(path.read_bytes()[:end])
  with pytest.raises(
    ValueError, match='not a complete safetensors file.*again|is empty'
  ):
    safetensors_reader.open_folder(tmp_path, 'm')


def test_integers_are_not_weights(tmp_path):
  save(tmp_path / 'm.safetensors', a=np.ones(3, np.int32))
  tensor = safetensors_reader.open_folder(tmp_path, 'm')['a']
  with pytest.raises(ValueError, match='type I32; expected one of F64'):
    np.asarray(tensor)


def test_pickles_are_named_but_not_opened(tmp_path):
  (tmp_path / 'm.bin').write_bytes(b'cos\nsystem\n(S"false"\ntR.')
  with pytest.raises(FileNotFoundError, match='only m.bin: such files can'):
    safetensors_reader.open_folder(tmp_path, 'm')


def test_no_weights(tmp_path):
  with pytest.raises(FileNotFoundError, match='no weights at .*m.safetensors'):
    safetensors_reader.open_folder(tmp_path, 'm')


@pytest.mark.parametrize(
  'dtype', [np.float64, np.float32, np.float16, jnp.bfloat16]
)
def test_numbers_that_are_not_finite(dtype):
  largest = jnp.finfo(dtype).max
  value = np.array([[1, -largest, largest], [0, -0.0, 1e-4]], dtype)
  assert safetensors_reader.is_finite(value)
  assert safetensors_reader.is_finite(value[:0])
  for wrong in (np.nan, -np.nan, np.inf, -np.inf):
    value[1, 1] = wrong
    assert not safetensors_reader.is_finite(value)
