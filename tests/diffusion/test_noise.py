"""Noise is that of `jax.random.normal`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax.diffusion import noise


@pytest.mark.parametrize('shape', [(), (3,), (2, 3, 4, 2, 5)])
def test_shapes_of_one_to_five_axes_have_the_same_numbers(shape):
  key = jax.random.key(3)
  np.testing.assert_array_equal(
    noise.normal(key, shape, jnp.float32), jax.random.normal(key, shape)
  )
