"""Every mixer, in both directions, on a mesh of eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import compare
from tests.helpers.random_params import random_params
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.checkpoints import train_state
from ttt_jax.models import dit
from ttt_jax.models.dit import block
from ttt_jax.models.dit import mixers

# Frames of 2 x 2 tokens and texts of 3: 42 tokens.
ORDER = token_order.TokenOrder(2, 4, 2, 2, 3)
BATCH = 2


def run(config, mesh):
  """Output, gradients and diagnostics: {quantity: array}."""
  plan = sharding.ShardingPlan(mesh)
  module, on_one_device = (
    mixers.BidirectionalMixer(
      mixer=mixers.MIXERS[config.mixer].layer(config, ORDER, plan),
      gate_init=0.1,
    )
    for plan in (plan, sharding.ShardingPlan())
  )
  length = plan.padded(ORDER.length, config.mini_batch)
  rotary = block.make_context(config, ORDER, None, plan).scan_rotary
  rng = np.random.default_rng(0)
  fill = ((0, 0), (0, length - ORDER.length), (0, 0))
  x, d_y = rng.normal(size=(2, BATCH, ORDER.length, config.model_dim)).astype(
    np.float32
  )
  shapes = jax.eval_shape(
    lambda: on_one_device.init(
      jax.random.key(0), jnp.pad(x, fill), ORDER, rotary
    )
  )
  params = random_params(shapes['params'], 0.3)

  @jax.jit
  def value_and_gradients(params, x, d_y):
    def loss(params, x):
      y, aux = module.apply(
        {'params': params},
        plan.by_tokens(jnp.pad(x, fill)),
        ORDER,
        rotary,
        diagnose=True,
      )
      y = plan.by_batch(y)[:, : ORDER.length]
      return jnp.sum(y * d_y), (y, aux)

    return jax.grad(loss, (0, 1), has_aux=True)(params, x)

  (d_params, d_x), (y, aux) = value_and_gradients(params, x, d_y)
  out = dict(y=y, d_x=d_x) | aux | train_state.flatten(d_params)
  return jax.device_get(out)


# The complete transformer with TTT layers is in test_dit.py, and full attention
# runs the code of the window, without a limit.
SLOW = 'ttt_mlp', 'ttt_linear', 'full'


@pytest.mark.parametrize(
  'mixer',
  [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name in mixers.MIXERS
    if name != 'none'
  ],
)
def test_a_mesh_gives_what_one_device_gives(mixer):
  config = dit.DiTConfig(
    model_dim=128,
    num_heads=8,
    num_layers=1,
    mixer=mixer,
    mini_batch=4,
    window_size=9,
  )
  want = run(config, None)
  got = run(config, sharding.make_mesh(dict(data=2, sp=4)))
  errors = compare.relative_errors(got, want)
  assert {'forward_state_norm', 'reverse_text', 'd_x'} <= set(errors)
  assert max(errors.values()) < 2e-5, errors
