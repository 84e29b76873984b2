"""Safetensors files written one tensor at a time."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from ttt_jax.convert import rules
from ttt_jax.convert import safetensors_reader
from ttt_jax.convert import safetensors_writer

RULES = (
  rules.Rule('blocks.{i}.q.weight', 'layers/q/kernel', (1, 0)),
  rules.Rule('blocks.{i}.q.bias', 'layers/q/bias'),
  rules.Rule('head.weight', 'head/kernel', (1, 0)),
)


def params(layers=11, dtype=np.float32):
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(dtype)
  return dict(
    layers=dict(q=dict(kernel=draw(layers, 3, 2), bias=draw(layers, 2))),
    head=dict(kernel=draw(2, 5)),
  )


def read(folder):
  return {
    key: np.asarray(t)
    for key, t in safetensors_reader.open_folder(folder, 'm').items()
  }


@pytest.mark.parametrize('dtype', [np.float32, np.float16, jnp.bfloat16])
@pytest.mark.parametrize('shard_bytes', [10**9, 100])
def test_round_trip(tmp_path, dtype, shard_bytes):
  ours = params(dtype=dtype)
  safetensors_writer.write_folder(
    tmp_path, 'm', RULES, ours, shard_bytes=shard_bytes
  )
  back = read(tmp_path)
  wanted = rules.export_params(RULES, ours)
  assert back.keys() == wanted.keys()
  for key, value in wanted.items():
    assert back[key].dtype == value.dtype
    np.testing.assert_array_equal(back[key], value)
  several = shard_bytes == 100
  assert (tmp_path / 'm.safetensors.index.json').exists() == several
  # 392 bytes as float32.
  count = len(list(tmp_path.glob('*.safetensors')))
  assert count == (1 if not several else 5 if dtype == np.float32 else 2)
  assert not list(tmp_path.glob('*.tmp'))


def test_same_bytes_as_the_library(tmp_path):
  ours = params()
  safetensors_writer.write_folder(tmp_path, 'm', RULES, ours)
  tensors = {
    key: np.ascontiguousarray(value)
    for key, value in rules.export_params(RULES, ours).items()
  }
  theirs = safetensors_numpy.save(tensors, {'format': 'pt'})
  assert (tmp_path / 'm.safetensors').read_bytes() == theirs


def test_another_type(tmp_path):
  safetensors_writer.write_folder(
    tmp_path, 'm', RULES, params(), dtype=jnp.bfloat16
  )
  assert {t.dtype for t in read(tmp_path).values()} == {np.dtype(jnp.bfloat16)}


def test_existing_weights_are_not_replaced(tmp_path):
  safetensors_writer.write_folder(tmp_path, 'm', RULES, params())
  with pytest.raises(FileExistsError, match='m.safetensors exists'):
    safetensors_writer.write_folder(tmp_path, 'm', RULES, params())


def test_a_failure_leaves_no_file(tmp_path):
  class Broken:
    shape, dtype = (2, 5), np.dtype(np.float32)

    def __array__(self, dtype=None, copy=None):
      raise ValueError('gone')

  ours = params() | dict(head=dict(kernel=Broken()))
  mine = tmp_path / '.m.safetensors.tmp'
  mine.write_text('x')
  with pytest.raises(ValueError, match='gone'):
    safetensors_writer.write_folder(tmp_path, 'm', RULES, ours)
  assert list(tmp_path.iterdir()) == [mine] and mine.read_text() == 'x'


def test_a_type_that_weights_cannot_have(tmp_path):
  with pytest.raises(ValueError, match='head/kernel has type int32; .*float32'):
    safetensors_writer.write_folder(
      tmp_path, 'm', RULES, dict(head=dict(kernel=np.ones((2, 5), np.int32)))
    )
