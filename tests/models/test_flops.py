"""Operations by formula against XLA's count; every weight is counted once."""

import jax
import jax.numpy as jnp
import pytest

from ttt_jax.checkpoints import train_state
from ttt_jax.models import dit
from ttt_jax.models import flops
from ttt_jax.models.unet3d import unet

# Cost analysis counts the body of a loop once: with one layer, one segment and
# one mini-batch every loop has one iteration.
DIT = dict(
  model_dim=512,
  num_heads=4,
  num_layers=1,
  time_embed_dim=64,
  text_dim=128,
  segment_latent_frames=4,
  mini_batch=340,
  implementation='reference',
  attention='xla',
)
UNET = dict(
  block_out_channels=(64, 128),
  cross_attention=(True, False),
  num_heads=(2, 2),
  layers_per_block=1,
  text_dim=96,
)
CASES = {
  'ttt_mlp': (dit.DiTConfig(mixer='ttt_mlp', **DIT), (5, 16, 16, 16)),
  'ttt_linear': (dit.DiTConfig(mixer='ttt_linear', **DIT), (5, 16, 16, 16)),
  'none': (dit.DiTConfig(mixer='none', **DIT), (5, 16, 16, 16)),
  'unet3d': (unet.UNet3DConfig(**UNET), (3, 16, 16, 4)),
}


def _network(config):
  """Returns the module and its abstract parameters."""
  if isinstance(config, unet.UNet3DConfig):
    return unet.UNet3D(config), unet.abstract_params(config)
  return dit.DiffusionTransformer(config), dit.abstract_params(config)


@pytest.mark.parametrize('name', CASES)
def test_the_formula_equals_the_count_of_xla(name):
  config, latents = CASES[name]
  text = (1, 20, config.text_dim)
  module, params = _network(config)
  struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  lowered = jax.jit(lambda p, *x: module.apply({'params': p}, *x)).lower(
    params, struct(1, *latents), struct(1, *text), struct(1)
  )
  counted = lowered.cost_analysis()['flops']
  formula = sum(flops.forward_flops(config, latents, text).values())
  # XLA also counts pointwise operations, and excludes the padding of
  # convolutions.
  assert formula == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize('name', CASES)
def test_every_matrix_is_in_one_product(name):
  config, latents = CASES[name]
  found = flops.products(config, latents, (1, 20, config.text_dim))
  weights = sorted(p.weight for p in found if p.weight)
  params = train_state.flatten(_network(config)[1])
  assert weights == sorted(k for k in params if k.endswith('/kernel'))


def test_frozen_weights_have_no_gradient():
  config, latents = CASES['ttt_mlp']
  sizes = config, latents, (1, 20, 128)
  forward = flops.forward_flops(*sizes)
  full = flops.training_flops(*sizes)
  assert full == {k: 3 * v for k, v in forward.items()}
  part = flops.training_flops(*sizes, trainable={'layers/mlp/up/kernel'})
  assert part['mlp'] == 2.5 * forward['mlp']
  assert part['embeddings'] == 2 * forward['embeddings']
  assert part['attention'] == full['attention']


def test_products_of_the_5b_model_at_63_seconds():
  config = dit.DiTConfig()
  latents, text = (253, 60, 90, 16), (21, 480, 4096)
  total = flops.forward_flops(config, latents, text)
  # 2 operations per weight and token: 12 M^2 weights per block, and 4 M^2 in
  # its TTT layer, which runs twice.
  dense = total['mlp'] + total['attention projections']
  assert dense == 2 * 12 * 3072**2 * 351_630 * 42
  assert total['mixer projections'] == pytest.approx(
    2 * 8 * 3072**2 * 351_630 * 42, rel=0.005
  )
