"""Gradients of affine layers, and sums by matrix products on TPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax.models import layers


@pytest.mark.parametrize(
  'equation, x, kernel, bias',
  [
    ('bti,io->bto', (2, 5, 3), (3, 4), (4,)),
    ('btm,mpx->pbtx', (2, 5, 3), (3, 2, 4), (2, 4)),
    ('pbtx,pxm->btm', (2, 2, 5, 4), (2, 4, 3), (3,)),
  ],
)
def test_gradients_equal_autodiff(equation, x, kernel, bias):
  rng = np.random.default_rng(0)
  arguments = [rng.normal(size=shape) for shape in (x, kernel, bias)]
  axes = equation.split('->')[1]

  def plain(x, kernel, bias):
    shape = [
      n if a in equation.split(',')[1].split('->')[0] else 1
      for n, a in zip(jnp.einsum(equation, x, kernel).shape, axes)
    ]
    return jnp.einsum(equation, x, kernel) + bias.reshape(shape)

  def loss(function, *arguments):
    return jnp.sum(jnp.sin(function(*arguments)))

  with jax.enable_x64(True):
    gradient = jax.jit(jax.grad(loss, (1, 2, 3)), static_argnums=0)
    affine = lambda *arguments: layers.affine(equation, *arguments)
    for a, b in zip(gradient(affine, *arguments), gradient(plain, *arguments)):
      np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('axes', [[0, 1], [1, 2], [2]])
def test_a_sum_by_a_product(axes):
  x = jax.random.normal(jax.random.key(0), (3, 40, 5), jnp.bfloat16)
  found = layers._sum_by_product(x, axes, jnp.float32)
  want = jnp.sum(x, axis=axes, dtype=jnp.float32)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
  assert found.dtype == jnp.float32
