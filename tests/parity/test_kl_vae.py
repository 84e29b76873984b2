"""Our image autoencoder against diffusers': both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax import convert
from ttt_jax.models.vae import kl

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')


def their_model(seed):
  rng = np.random.default_rng(seed)
  pick = lambda *choices: choices[rng.integers(len(choices))]
  levels = pick(2, 3)
  torch.manual_seed(seed)
  model = diffusers.AutoencoderKL(
    block_out_channels=[pick(8, 16) for _ in range(levels)],
    down_block_types=['DownEncoderBlock2D'] * levels,
    up_block_types=['UpDecoderBlock2D'] * levels,
    layers_per_block=pick(1, 2),
    norm_num_groups=pick(2, 4),
    latent_channels=pick(3, 4),
    scaling_factor=pick(0.18215, 0.5),
  ).eval()
  for weight in model.parameters():
    weight.add_(0.1 * torch.randn_like(weight))
  return model


def error(found, want):
  want = np.moveaxis(want.numpy(), 1, -1)[None]
  return np.abs(np.asarray(found) - want).max() / np.abs(want).max()


def compare(config, params, model, seed):
  vae, model = kl.KLVAE(config), model.double()
  encode, decode = (
    jax.jit(lambda p, x, m=m: vae.apply({'params': p}, x, method=m))
    for m in ('encode', 'decode')
  )
  rng = np.random.default_rng(seed)
  side = config.spatial_compression
  frames = rng.normal(size=(3, 3, 2 * side, 4 * side))
  posterior = model.encode(torch.tensor(frames)).latent_dist
  mean, logvar = encode(params, jnp.float32(frames.transpose(0, 2, 3, 1)[None]))
  scale = config.scaling_factor
  found = [
    error(mean / scale, posterior.mean),
    error(logvar - 2 * np.log(scale), posterior.logvar),
  ]
  z = rng.normal(size=(3, config.latent_channels, 4, 2))
  decoded = decode(params, jnp.float32(scale * z.transpose(0, 2, 3, 1)[None]))
  found.append(error(decoded, model.decode(torch.tensor(z)).sample))
  print(f'seed {seed}: {max(found):.1e}')
  assert max(found) < 2e-5


@pytest.mark.parametrize('seed', range(3))
def test_both_ways(seed, tmp_path):
  model = their_model(seed)
  model.save_pretrained(tmp_path / 'theirs')
  config, params = convert.load_kl_vae(tmp_path / 'theirs')
  compare(config, params, model, seed)
  convert.save_kl_vae(config, params, tmp_path / 'ours')
  back = diffusers.AutoencoderKL.from_pretrained(tmp_path / 'ours')
  assert back.config.scaling_factor == model.config.scaling_factor
  for key, value in model.float().state_dict().items():
    assert torch.equal(value, back.state_dict()[key]), key
