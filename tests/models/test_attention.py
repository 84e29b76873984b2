"""Attention within segments: implementations, and the choice of one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.compare import relative_error
from tests.kernels.ops import interpreted
from ttt_jax import token_order
from ttt_jax.models import softmax
from ttt_jax.models.dit import attention
from ttt_jax.models.dit import rope


@pytest.mark.parametrize('implementation', ['splash', 'pallas_tpu'])
def test_implementations_agree(implementation, monkeypatch):
  monkeypatch.setattr(
    softmax, 'splash', functools.partial(softmax.splash, interpret=True)
  )
  order = token_order.TokenOrder(2, 2, 3, 4, 8)
  positions = order.ttt_positions[: order.window]
  rotary = rope.rotary_cos_sin(positions, 64)
  rng = np.random.default_rng(0)
  shape = 1, order.length + 3, 2 * 64
  x, d_y = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))

  def layer(implementation):
    return attention.SegmentAttention(
      num_heads=2,
      qk_norm_eps=1e-6,
      dtype=jnp.float32,
      implementation=implementation,
    )

  params = layer('xla').init(jax.random.key(0), x, order, rotary)

  def run(implementation):
    @jax.jit
    def both(params, x, d_y):
      y, pull = jax.vjp(
        lambda *args: layer(implementation).apply(*args, order, rotary),
        params,
        x,
      )
      return y[:, : order.length], pull(d_y.at[:, order.length :].set(0))

    with interpreted(implementation):
      return both(params, x, d_y)

  want, got = run('xla'), run(implementation)
  for w, g in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
    assert relative_error(g, w) < 2e-5


@pytest.mark.parametrize(
  'platform, dim, length, windows, stride, dtype, want',
  [
    ('tpu', 64, 18_030, 21, 16_680, jnp.bfloat16, 'pallas_tpu'),
    ('tpu', 128, 18_030, 21, 16_680, jnp.bfloat16, 'splash'),
    ('tpu', 64, 18_030, 21, 16_684, jnp.bfloat16, 'splash'),
    ('tpu', 64, 17_776, 1, 16_426, jnp.bfloat16, 'pallas_tpu'),
    # What exceeds the vector memory.
    ('tpu', 64, 18_030, 21, 16_680, jnp.float32, 'splash'),
    ('tpu', 64, 30_000, 21, 28_000, jnp.bfloat16, 'splash'),
    ('cpu', 64, 18_030, 21, 16_680, jnp.float32, 'xla'),
    ('gpu', 64, 18_030, 21, 16_680, jnp.bfloat16, 'xla'),
  ],
)
def test_the_best_of_a_platform(
  platform, dim, length, windows, stride, dtype, want
):
  sizes = dim, length, windows, stride, dtype
  assert softmax.choose_for_windows(None, platform, *sizes) == want
  assert softmax.choose_for_windows('splash', platform, *sizes) == 'splash'
