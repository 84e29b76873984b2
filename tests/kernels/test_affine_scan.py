"""States computed as on a TPU, against one after another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.xla import affine_scan
from tests.helpers import tpu_precision
from tests.kernels import test_linear_recurrences as recurrences

K, V = 4, 5


@pytest.mark.parametrize('adjoint', [False, True])
@pytest.mark.parametrize(
  'count', [1, affine_scan.BLOCK - 1, affine_scan.BLOCK, 20]
)
def test_blocks_are_a_scan(count, adjoint):
  rng = np.random.default_rng(count)
  with jax.enable_x64(True):
    a = jnp.asarray(rng.normal(size=(count, 2, K, K)) / 2)
    b = jnp.asarray(rng.normal(size=(count, 2, K, V)))
    state = want = rng.normal(size=(2, K, V))
    before = [None] * count
    for i in reversed(range(count)) if adjoint else range(count):
      before[i] = want
      want = (a[i].mT if adjoint else a[i]) @ want + b[i]
    for run in (affine_scan.affine_by_blocks, affine_scan.affine_by_steps):
      last, states = run(jnp.asarray(state), a, b, adjoint=adjoint)
      np.testing.assert_allclose(last, want, rtol=1e-10, atol=1e-12)
      np.testing.assert_allclose(states, before, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('adjoint', [False, True])
@pytest.mark.parametrize('count', [1, 2, 20])
def test_decays_as_a_matrix_are_a_scan(count, adjoint):
  rng = np.random.default_rng(count)
  with jax.enable_x64(True):
    log_decay = -(rng.uniform(0, 3, (count, 2, 3)) ** 4)
    b = rng.normal(size=(count, 2, 3, K, V))
    state = want = rng.normal(size=(2, 3, K, V))
    before = [None] * count
    for i in reversed(range(count)) if adjoint else range(count):
      before[i] = want
      want = np.exp(log_decay[i])[..., None, None] * want + b[i]
    for run in (affine_scan.decay_by_matrix, affine_scan.decay_by_steps):
      last, states = run(
        *map(jnp.asarray, (state, log_decay, b)), adjoint=adjoint
      )
      np.testing.assert_allclose(last, want, rtol=1e-10, atol=1e-12)
      np.testing.assert_allclose(states, before, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('op', recurrences.OPS)
def test_recurrences_as_on_a_tpu(op, monkeypatch):
  with jax.enable_x64(True):
    arguments = recurrences.draw(op, 39)
    weights = jax.tree.map(jnp.ones_like, recurrences.run(op, arguments))
    run = functools.partial(
      recurrences.value_and_gradients.__wrapped__, op, weights=weights, chunk=2
    )
    want = jax.jit(lambda x: run(x, implementation='reference'))(arguments)
    tpu_precision.choose_tpu(monkeypatch)
    monkeypatch.setattr(recurrences, 'run', recurrences.run.__wrapped__)
    got = jax.jit(lambda x: run(x, implementation='xla'))(arguments)
  recurrences.assert_close(got, want)
