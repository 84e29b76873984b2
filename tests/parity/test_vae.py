"""Our autoencoder against diffusers', live: new weights, both directions."""

import json

import jax
import numpy as np
import pytest

from ttt_jax import convert
from ttt_jax.models.vae import stream as stream_lib
from ttt_jax.models.vae import tiling as tiling_lib

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

# Relative to the maximum: sums in float32 differ in order.
TOLERANCE = 2e-5
CASES = {
  'as_cogvideox': dict(
    block_out_channels=(8, 16, 16, 32),
    layers_per_block=2,
    norm_num_groups=8,
    latent_channels=6,
    scaling_factor=0.7,
  ),
  'cogvideox_2b_scale': dict(
    block_out_channels=(8, 8, 16, 16),
    layers_per_block=1,
    norm_num_groups=4,
    latent_channels=4,
    scaling_factor=1.15258426,
  ),
  'time_by_2': dict(
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    latent_channels=3,
    temporal_compression_ratio=2,
    scaling_factor=1.3,
  ),
}


@pytest.fixture(autouse=True)
def quick():
  """Disables expensive optimizations of the compiler."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


def make(name, seed, folder):
  """Saves a random autoencoder by diffusers."""
  torch.manual_seed(seed)
  config = CASES[name]
  count = len(config['block_out_channels'])
  vae = diffusers.AutoencoderKLCogVideoX(
    down_block_types=('CogVideoXDownBlock3D',) * count,
    up_block_types=('CogVideoXUpBlock3D',) * count,
    **config,
  ).eval()
  for key, parameter in vae.named_parameters():
    # Norms that change their input.
    if 'norm' in key and 'conv' not in key:
      parameter.add_(torch.randn_like(parameter) * 0.1)
  vae.save_pretrained(folder)
  return vae


def to_torch(x):
  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def compare(vae, stream, shape, seed):
  """Compares both directions at one shape [B, F', H, W]."""
  rng = np.random.default_rng(seed)
  config = stream.config
  scale = np.float32(config.scaling_factor)
  frames = rng.uniform(-1, 1, (*shape, 3)).astype(np.float32)
  want = vae.encode(to_torch(frames)).latent_dist
  mean, logvar = zip(*stream.encode(frames))
  # Their pipeline scales after encoding and before decoding; our VAE scales.
  close(np.concatenate(mean, 1), want.mean * scale)
  close(np.concatenate(logvar, 1), want.logvar + 2 * np.log(scale))
  b, f, h, w = shape
  time, side = config.temporal_compression_ratio, config.spatial_compression
  latents = rng.normal(
    size=(b, (f - 1) // time + 1, h // side, w // side, config.latent_channels)
  ).astype(np.float32)
  want = vae.decode(to_torch(latents) / scale).sample
  close(np.concatenate(list(stream.decode(latents)), 1), want)


def close(found, want):
  want = np.moveaxis(want.numpy(), 1, -1)
  assert found.shape == want.shape
  assert np.abs(found - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize('seed, name', enumerate(CASES))
def test_windows(seed, name, tmp_path):
  vae = make(name, seed, tmp_path)
  stream = stream_lib.VAEStream(*convert.load_vae(tmp_path))
  for shape in ((1, 1, 16, 16), (1, 9, 48, 32), (2, 25, 16, 24)):
    compare(vae, stream, shape, seed)


@pytest.mark.parametrize('size', [(40, 64), (56, 24)])
def test_tiles(size, tmp_path):
  vae = make('as_cogvideox', 2, tmp_path)
  vae.enable_tiling(
    tile_sample_min_height=32,
    tile_sample_min_width=40,
    tile_overlap_factor_height=0.25,
    tile_overlap_factor_width=0.2,
  )
  stream = stream_lib.VAEStream(
    *convert.load_vae(tmp_path), tiling=tiling_lib.Tiling(32, 40, 0.25, 0.2)
  )
  compare(vae, stream, (1, 9, *size), 3)


def test_our_default_tiles_are_theirs():
  vae = diffusers.AutoencoderKLCogVideoX(block_out_channels=(32,) * 4)
  ours = tiling_lib.Tiling()
  assert ours == tiling_lib.Tiling(
    vae.tile_sample_min_height,
    vae.tile_sample_min_width,
    vae.tile_overlap_factor_height,
    vae.tile_overlap_factor_width,
  )


@pytest.mark.parametrize('name', CASES)
def test_our_folder_read_by_diffusers(name, tmp_path):
  vae = make(name, 4, tmp_path / 'theirs')
  config, params = convert.load_vae(tmp_path / 'theirs')
  convert.save_vae(config, params, tmp_path / 'ours', shard_bytes=100_000)
  assert len(list((tmp_path / 'ours').glob('*.safetensors'))) > 1
  again = diffusers.AutoencoderKLCogVideoX.from_pretrained(tmp_path / 'ours')
  for (key, a), b in zip(
    vae.state_dict().items(), again.state_dict().values(), strict=True
  ):
    assert torch.equal(a, b), key
  read = lambda who: json.loads((tmp_path / who / 'config.json').read_text())
  for key, value in CASES[name].items():
    found = read('ours')[key]
    assert (tuple(found) if isinstance(found, list) else found) == value
  compare(again, stream_lib.VAEStream(config, params), (1, 9, 16, 16), 5)
