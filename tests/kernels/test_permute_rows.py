"""The permutation of rows: values, gradients, and refused arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import Permutation
from pallas_kernels import permute_rows
from pallas_kernels.permute_rows import specs
from tests.kernels.ops import interpreted
from ttt_jax import token_order
from ttt_jax.models.dit import mixers

IMPLEMENTATIONS = ('xla', 'pallas_tpu')


def reading(segments, frames, rows, columns, text, *, reverse, fill=0):
  order = token_order.TokenOrder(segments, frames, rows, columns, text)
  return mixers.scan_permutation(order, reverse, order.length + fill)


# Several runs per block, and runs of many blocks; aligned to tiles and not.
PERMUTATIONS = {
  'forward': reading(3, 2, 4, 5, 7, reverse=False),
  'reverse': reading(3, 2, 4, 5, 7, reverse=True),
  'filled up': reading(2, 3, 8, 9, 21, reverse=True, fill=30),
  'longer': reading(4, 12, 5, 6, 20, reverse=True, fill=8),
  'as it is': Permutation.from_index(np.arange(300)),
  'backwards': Permutation.from_index(np.arange(999)[::-1]),
  'a row': Permutation.from_index(np.zeros(1, int)),
  'mixed up': Permutation.from_index(np.random.default_rng(0).permutation(11)),
}


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
@pytest.mark.parametrize('name', PERMUTATIONS)
def test_rows_and_gradients_are_moved_exactly(implementation, name):
  permutation = PERMUTATIONS[name]
  rng = np.random.default_rng(1)
  shape = 2, permutation.length, 130
  dtype = jnp.float32 if name == 'reverse' else jnp.bfloat16
  x, d_y = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))

  @jax.jit
  def run(x, d_y):
    y, pull = jax.vjp(
      lambda x: permute_rows(x, permutation, implementation=implementation),
      x,
    )
    return y, *pull(d_y)

  with interpreted(implementation):
    y, d_x = run(x, d_y)
  np.testing.assert_array_equal(y, x[:, permutation.index])
  np.testing.assert_array_equal(d_x, d_y[:, np.argsort(permutation.index)])


def test_float64_is_exact():
  permutation = PERMUTATIONS['reverse']
  with jax.enable_x64(True), interpreted('pallas_tpu'):
    x = jnp.asarray(
      np.random.default_rng(0).normal(size=(1, permutation.length, 5))
    )
    y = permute_rows(x, permutation, implementation='pallas_tpu')
    assert y.dtype == jnp.float64
    np.testing.assert_array_equal(y, x[:, permutation.index])


def test_a_batch_of_batches():
  permutation = PERMUTATIONS['reverse']
  x = jnp.asarray(
    np.random.default_rng(0).normal(size=(2, 1, permutation.length, 3))
  )
  y = jax.vmap(lambda x: permute_rows(x, permutation))(x)
  np.testing.assert_array_equal(y, x[:, :, permutation.index])


def test_runs():
  permutation = Permutation.from_index(np.array([3, 4, 2, 1, 0, 5]))
  assert [(r.start, r.length, r.step) for r in permutation.runs] == [
    (3, 2, 1),
    (2, 3, -1),
    (5, 1, 1),
  ]
  assert permutation.inverse.inverse == permutation
  assert len(specs.paper_63s().runs) < 70


@pytest.mark.parametrize('segments, fill', [(1, 0), (2, 3), (3, 9)])
def test_a_model_reads_as_the_spec_says(segments, fill):
  text, frame, frames = 5, 6, 3
  order = token_order.TokenOrder(segments, frames, 2, 3, text)
  spec = specs.backwards(segments, text, frames * frame, frame, fill)
  assert mixers.scan_permutation(order, True, order.length + fill) == spec


@pytest.mark.parametrize('index', [[0, 2], [0, 0], [[0]], [-1, 0]])
def test_an_index_that_is_not_a_permutation(index):
  with pytest.raises(ValueError, match='is not a permutation: it must contain'):
    Permutation.from_index(np.array(index))


def test_bad_input():
  permutation = PERMUTATIONS['mixed up']
  with pytest.raises(ValueError, match=r'\(1, 12, 4\).* needs \[B, 11, X\]'):
    permute_rows(jnp.zeros((1, 12, 4)), permutation)
  with pytest.raises(NotImplementedError, match='rows of int32'):
    permute_rows(
      jnp.zeros((1, 11, 4), jnp.int32),
      permutation,
      implementation='pallas_tpu',
    )
  many = Permutation.from_index(np.random.default_rng(0).permutation(200))
  with pytest.raises(NotImplementedError, match='runs of rows meet in 112'):
    permute_rows(jnp.zeros((1, 200, 4)), many, implementation='pallas_tpu')
