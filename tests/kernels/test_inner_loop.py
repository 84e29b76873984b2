"""The definition itself: any inner model, against numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.inner_loop import inner_loop
from pallas_kernels.inner_loop import inner_losses
from pallas_kernels.inner_loss import normalize
from pallas_kernels.inner_loss import token_loss
from pallas_kernels.xla.inner_loss_backward import loss_gradient
from pallas_kernels.xla.mini_batches import group_size


def test_any_pure_function_can_be_the_inner_model():
  """A model with a dict of parameters and a sine learns its sequence."""
  rng = np.random.default_rng(0)
  b, h, t, d = 1, 2, 64, 8
  k = jnp.asarray(rng.standard_normal((b, h, t, d)))
  v = k + jnp.sin(k)
  eta = jnp.full((b, h, t), 0.003)
  norm = jnp.ones((h, d)), jnp.zeros((h, d))
  parameters = {
    'w': jnp.asarray(0.1 * rng.standard_normal((b, h, d, d))),
    'b': jnp.zeros((b, h, d)),
  }

  def model(p, x):
    return jnp.sin(x) @ p['w'] + p['b']

  out, state = inner_loop(model, parameters, k, k, v, eta, *norm, mini_batch=8)
  before, after = inner_losses(
    model, parameters, k, v, eta, *norm, mini_batch=8
  )

  assert out.shape == (b, h, t, d)
  assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, parameters)
  assert (after < before).all()
  assert (before[..., -1] < 0.7 * before[..., 0]).all()


def test_normalize_has_biased_variance_and_epsilon_in_the_root():
  z = np.array([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 0.0], [1e-4, 0, 0, 0]])
  with jax.enable_x64(True):
    normal, reciprocal = normalize(jnp.asarray(z))
  np.testing.assert_allclose(reciprocal[0], 1 / np.sqrt(3.5 + 1e-8))
  np.testing.assert_allclose(normal[0], (z[0] - 3) / np.sqrt(3.5 + 1e-8))
  np.testing.assert_allclose(reciprocal[1], 1e4)
  np.testing.assert_allclose(
    reciprocal[2], 1 / np.sqrt(np.var(z[2]) + 1e-8), rtol=1e-12
  )


def test_closed_form_gradient_is_the_gradient():
  rng = np.random.default_rng(1)
  with jax.enable_x64(True):
    z, k, v = (jnp.asarray(rng.standard_normal((5, 7))) for _ in range(3))
    scale, bias = (jnp.asarray(rng.standard_normal(7)) for _ in range(2))
    want = jax.grad(lambda z: token_loss(z, k, v, scale, bias).sum())(z)
    got = loss_gradient(z, k, v, scale, bias).g
  np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


def test_groups_are_near_the_root_and_waste_little():
  for n in (129, 251, 1000, 5501):
    size = group_size(n)
    root = int(np.sqrt(n))
    assert root <= size <= 2 * root
    assert -n % size <= max(2, n // 100)
