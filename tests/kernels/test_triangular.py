"""Unit lower-triangular systems against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.xla import triangular


def _system(size, kind):
  rng = np.random.default_rng(size)
  lower = np.tril(rng.uniform(-1, 1, (3, size, size)), -1)
  if kind == 'equal keys':  # The products of one key with itself, many times.
    lower = np.tril(np.ones_like(lower), -1)
  return lower, rng.normal(size=(3, size, 4))


@pytest.mark.parametrize('kind', ['random', 'equal keys'])
@pytest.mark.parametrize('size', [1, 2, 5, 8, 9, 20, 64])
def test_solutions(size, kind):
  lower, rhs = _system(size, kind)
  want = np.linalg.solve(np.eye(size) + lower, rhs)
  lower = jnp.asarray(lower, jnp.float32)
  rhs = jnp.asarray(rhs, jnp.float32)
  # As exact as substitution, row by row.
  direct = jax.scipy.linalg.solve_triangular(
    np.eye(size, dtype=np.float32) + lower, rhs, lower=True
  )
  error = lambda x: np.abs(np.asarray(x) - want).max() / np.abs(want).max()
  for got in (
    triangular.solve_unit_lower(lower, rhs),
    triangular.by_halves(lower, 8) @ rhs,
    triangular.by_halves(lower, 16) @ rhs,
  ):
    assert error(got) < 10 * error(direct) + 1e-6


def test_gradients():
  lower, rhs = _system(11, 'random')
  with jax.enable_x64(True):
    lower, rhs = jnp.asarray(lower), jnp.asarray(rhs)
    weights = jnp.sin(jnp.arange(rhs.size)).reshape(rhs.shape)

    def loss(solve, lower, rhs):
      return jnp.vdot(weights, solve(jnp.tril(lower, -1), rhs))

    got = jax.grad(loss, (1, 2))(triangular.solve_unit_lower, lower, rhs)
    want = jax.grad(loss, (1, 2))(
      lambda a, b: jnp.linalg.solve(jnp.eye(11) + a, b), lower, rhs
    )
  for x, y in zip(got, want, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)
