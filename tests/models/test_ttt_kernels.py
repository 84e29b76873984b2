"""The TTT layer on the TPU's kernels, interpreted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.compare import relative_error
from tests.kernels.ops import interpreted
from ttt_jax import token_order
from ttt_jax.models.dit import mixers
from ttt_jax.models.dit import rope
from ttt_jax.models.dit import ttt


@pytest.mark.slow  # The kernels alone are compared in tests/kernels.
@pytest.mark.parametrize('inner', ['ttt_linear', 'ttt_mlp'])
def test_the_layer_is_the_same_on_every_implementation(inner):
  order = token_order.TokenOrder(2, 2, 3, 3, 5)
  fill = 3
  turns = rope.rotary_cos_sin(
    np.pad(order.ttt_positions, ((0, fill), (0, 0)), constant_values=-1), 32
  )
  rng = np.random.default_rng(0)
  shape = 1, order.length + fill, 3 * 32
  x, d_y = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
  d_y = d_y.at[:, order.length :].set(0)
  reading = mixers.scan_permutation(order, True, order.length + fill)

  def layer(implementation):
    return ttt.TTTLayer(inner, 3, 16, 1.0, jnp.float32, implementation)

  params = layer('xla').init(jax.random.key(0), x, turns, reading, order.length)

  def run(implementation):
    def call(params, x):
      y, _ = layer(implementation).apply(
        params, x, turns, reading, order.length
      )
      # What follows the sequence is nobody's business.
      return y[:, : order.length]

    with interpreted(implementation):
      y, pull = jax.vjp(call, params, x)
      return y, pull(d_y[:, : order.length])

  want, got = run('xla'), run('pallas_tpu')
  for w, g in zip(jax.tree.leaves(want), jax.tree.leaves(got)):
    assert relative_error(g, w) < 2e-5
