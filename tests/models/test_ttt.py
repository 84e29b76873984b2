"""The TTT layer's own statements, without numbers of others."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers.compare import relative_error
from ttt_jax import token_order
from ttt_jax.models.dit import mixers
from ttt_jax.models.dit import rope
from ttt_jax.models.dit import ttt


def test_a_permutation_reorders_the_scan_and_nothing_else():
  """Scanning in another order is a scan of reordered tokens, put back.

  The order is no involution: taking it for its own inverse would not do.
  """
  order = token_order.TokenOrder(2, 2, 3, 1, 5)
  index = order.reverse_order
  assert (index[index] != np.arange(order.length)).any()
  layer = ttt.TTTLayer(
    inner='ttt_linear',
    num_heads=2,
    mini_batch=4,
    base_lr=1.0,
    dtype=jnp.float32,
  )
  rotary = rope.rotary_cos_sin(order.ttt_positions, 16)
  x = jax.random.normal(jax.random.key(0), (1, order.length, 32))
  params = jax.jit(layer.init)(jax.random.key(1), x, rotary)
  scan = jax.jit(
    lambda x, permutation=None: layer.apply(params, x, rotary, permutation)[0],
    static_argnums=1,
  )
  permutation = mixers.scan_permutation(order, True, order.length)
  want = scan(x[:, index])[:, np.argsort(index)]
  assert relative_error(scan(x, permutation), want) < 1e-6
  assert relative_error(scan(x), want) > 0.1
