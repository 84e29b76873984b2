"""The layers of Gated DeltaNet and Mamba 2 against those of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import random_params
from ttt_jax.models.dit import gated_deltanet
from ttt_jax.models.dit import mamba2

torch = pytest.importorskip('torch')
qwen = pytest.importorskip('transformers.models.qwen3_next.modeling_qwen3_next')
mamba = pytest.importorskip('transformers.models.mamba2.modeling_mamba2')

# (T, M, heads, heads of keys or groups, head dim of keys or state, of values)
SIZES = [
  (1, 32, 2, 1, 16, 16),
  (15, 64, 4, 2, 32, 64),
  (63, 96, 4, 4, 24, 48),
  (300, 256, 4, 2, 128, 64),
]


def run(layer, theirs, to_theirs, t, m):
  """Compares the layers on random numbers and weights."""
  x = np.random.default_rng(0).normal(size=(2, t, m)).astype(np.float32)
  shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))['params']
  params = random_params.random_params(shapes, 0.3)
  tensors = {k: torch.tensor(np.array(v)) for k, v in to_theirs(params).items()}
  theirs.load_state_dict(tensors)
  want = theirs.eval()(torch.tensor(x)).numpy()
  ours = jax.jit(lambda x: layer.apply({'params': params}, x)[0])(x)
  assert np.abs(ours - want).max() <= 2e-5 * np.abs(want).max()


def linear(params, name):
  return params[name]['kernel'].T


def convolution(*kernels):
  """[H, n, D] each -> a weight [C, 1, n] of PyTorch."""
  rows = [k.swapaxes(1, 2).reshape(-1, 1, k.shape[1]) for k in kernels]
  return np.concatenate(rows)


@pytest.mark.parametrize('sizes', SIZES)
def test_gated_deltanet(sizes):
  t, m, heads, key_heads, key, value = sizes
  config = qwen.Qwen3NextConfig(
    hidden_size=m,
    linear_num_value_heads=heads,
    linear_num_key_heads=key_heads,
    linear_key_head_dim=key,
    linear_value_head_dim=value,
    linear_conv_kernel_dim=4,
    num_hidden_layers=1,
    layer_types=['linear_attention'],
  )
  layer = gated_deltanet.GatedDeltaNetLayer(
    num_heads=heads,
    key_heads=key_heads,
    key_dim=key,
    value_dim=value,
    dtype=jnp.float32,
    epsilon=config.rms_norm_eps,
  )

  def to_theirs(p):
    # Rows of one head of the keys after another.
    rows = lambda *names: np.concatenate(
      [linear(p, n).reshape(key_heads, -1, m) for n in names], axis=1
    ).reshape(-1, m)
    return {
      'in_proj_qkvz.weight': rows('q', 'k', 'v', 'z'),
      'in_proj_ba.weight': rows('beta', 'decay'),
      'conv1d.weight': convolution(p['q_conv'], p['k_conv'], p['v_conv']),
      'A_log': p['a_log'],
      'dt_bias': p['dt_bias'],
      'norm.weight': p['norm'],
      'out_proj.weight': linear(p, 'o'),
    }

  run(layer, qwen.Qwen3NextGatedDeltaNet(config, 0), to_theirs, t, m)


@pytest.mark.parametrize('sizes', SIZES)
def test_mamba2(sizes):
  t, m, heads, groups, state, _ = sizes
  head_dim = 2 * m // heads
  config = mamba.Mamba2Config(
    hidden_size=m,
    num_heads=heads,
    head_dim=head_dim,
    state_size=state,
    n_groups=groups,
    expand=2,
    chunk_size=16,
    num_hidden_layers=1,
  )
  layer = mamba2.Mamba2Layer(
    num_heads=heads,
    head_dim=head_dim,
    state_dim=state,
    groups=groups,
    dtype=jnp.float32,
    epsilon=config.layer_norm_epsilon,
  )

  def to_theirs(p):
    names = ('x', 'b', 'c')
    return {
      'in_proj.weight': np.concatenate(
        [linear(p, name) for name in ('z', *names, 'dt')]
      ),
      'conv1d.weight': convolution(*(p[f'{name}_conv'] for name in names)),
      'conv1d.bias': np.concatenate(
        [p[f'{name}_conv_bias'].ravel() for name in names]
      ),
      'A_log': p['a_log'],
      'dt_bias': p['dt_bias'],
      'D': p['skip'],
      'norm.weight': p['norm'],
      'out_proj.weight': linear(p, 'o'),
    }

  run(layer, mamba.Mamba2Mixer(config, 0), to_theirs, t, m)
