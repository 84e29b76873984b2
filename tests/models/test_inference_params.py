"""Kernels in the compute type give the outputs of float32 kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax.models import dit


@pytest.mark.optimized
def test_outputs_with_smaller_kernels_are_bit_identical():
  config = dit.DiTConfig(
    model_dim=32,
    num_heads=2,
    num_layers=1,
    time_embed_dim=16,
    text_dim=8,
    in_channels=4,
    out_channels=4,
    segment_latent_frames=2,
    mixer='ttt_linear',
    mini_batch=4,
    dtype='bfloat16',
  )
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  params = jax.tree.map(
    lambda x: jnp.asarray(0.1 * draw(*x.shape)), dit.abstract_params(config)
  )
  smaller = dit.inference_params(config, params)
  dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(smaller)}
  assert dtypes == {'bfloat16', 'float32'}
  apply = jax.jit(dit.DiffusionTransformer(config).apply)
  inputs = draw(1, 3, 4, 4, 4), draw(1, 1, 5, 8), np.float32([500])
  want, got = (apply({'params': p}, *inputs) for p in (params, smaller))
  np.testing.assert_array_equal(want, got)
