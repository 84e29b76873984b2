"""The TTT layer with interpreted TPU kernels."""

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
def test_implementations_of_the_layer_agree(inner):
  order = token_order.TokenOrder(2, 2, 3, 3, 5)
  padding = 3
  rotary = rope.rotary_cos_sin(
    np.pad(order.ttt_positions, ((0, padding), (0, 0)), constant_values=-1), 32
  )
  rng = np.random.default_rng(0)
  shape = 1, order.length + padding, 3 * 32
  x, d_y = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
  d_y = d_y.at[:, order.length :].set(0)
  permutation = mixers.scan_permutation(order, True, order.length + padding)

  def layer(implementation):
    return ttt.TTTLayer(
      inner=inner,
      num_heads=3,
      mini_batch=16,
      base_lr=1.0,
      dtype=jnp.float32,
      implementation=implementation,
    )

  params = layer('xla').init(
    jax.random.key(0), x, rotary, permutation, order.length
  )

  def run(implementation):
    def call(params, x):
      y, _ = layer(implementation).apply(
        params, x, rotary, permutation, order.length
      )
      # Outputs of the padding are not specified.
      return y[:, : order.length]

    with interpreted(implementation):
      y, pull = jax.vjp(call, params, x)
      return y, pull(d_y[:, : order.length])

  want, got = run('xla'), run('pallas_tpu')
  for w, g in zip(jax.tree.leaves(want), jax.tree.leaves(got)):
    assert relative_error(g, w) < 2e-5
