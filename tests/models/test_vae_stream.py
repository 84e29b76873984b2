"""Streams of videos through the autoencoder, in chunks, tiles and parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import compare
from tests.helpers import tiny_vae
from ttt_jax.convert import load_vae
from ttt_jax.models.vae import stream as stream_lib
from ttt_jax.models.vae import tiling as tiling_lib
from ttt_jax.models.vae.causal3d import CausalVAE
from ttt_jax.models.vae.causal3d import CausalVAEConfig

# Sizes for the reference's tiled numbers.
TILES = tiling_lib.Tiling(24, 24, 1 / 3, 1 / 3)


@pytest.fixture(scope='module', name='params')
def _params():
  return tiny_vae.parameters(tiny_vae.CONFIG)


@pytest.fixture(scope='module', name='stream')
def _stream(params):
  return stream_lib.VAEStream(tiny_vae.CONFIG, params)


@pytest.fixture(scope='module', name='reference')
def _reference(golden):
  """Returns config (unscaled latents), parameters and reference arrays."""
  folder = golden('diffusers_vae')
  config, params = load_vae(folder)
  config = dataclasses.replace(config, scaling_factor=1.0)
  with np.load(folder / 'io.npz') as file:
    io = {k: v.transpose(0, 2, 3, 4, 1) for k, v in file.items()}
  return config, params, io


def encode(stream, frames):
  means, logvars = zip(*stream.encode(frames))
  return np.concatenate(means, axis=1), np.concatenate(logvars, axis=1)


def decode(stream, latents):
  return np.concatenate(list(stream.decode(latents)), axis=1)


def test_chunks_equal_diffusers(reference):
  config, params, io = reference
  stream = stream_lib.VAEStream(config, params)
  mean, logvar = encode(stream, io['x_17'])
  assert compare.relative_error(mean, io['mean_17']) < 2e-5
  assert compare.relative_error(logvar, io['logvar_17']) < 2e-5
  assert (
    compare.relative_error(decode(stream, io['mean_17']), io['decoded_17'])
    < 2e-5
  )


@pytest.mark.slow
def test_tiles_equal_diffusers(reference):
  config, params, io = reference
  stream = stream_lib.VAEStream(config, params, tiling=TILES)
  mean, _ = encode(stream, io['x_9'])
  assert compare.relative_error(mean, io['tiled_mean_9']) < 2e-5
  assert compare.relative_error(mean, io['mean_9']) > 1e-2
  frames = decode(stream, io['mean_9'])
  assert compare.relative_error(frames, io['tiled_decoded_9']) < 2e-5


def test_chunks_equal_one_program(stream, params):
  vae = CausalVAE(tiny_vae.CONFIG)
  x = tiny_vae.clip(25, 32, 32)
  mean, logvar = encode(stream, x)
  want = tiny_vae.run(vae, params, x, method='encode')
  assert (
    compare.relative_error(mean, want[0]) < 1e-5
    and compare.relative_error(logvar, want[1]) < 1e-5
  )
  frames = decode(stream, mean)
  want = tiny_vae.run(vae, params, mean, method='decode')
  assert compare.relative_error(frames, want) < 1e-5
  assert [f.shape[1] for f in stream.decode(mean)] == [5] + [4] * 5


def test_pixels_in_and_out(stream):
  pixels = np.random.default_rng(0).integers(0, 256, (1, 9, 16, 16, 3))
  pixels = pixels.astype(np.uint8)
  mean, _ = encode(stream, pixels)
  want, _ = encode(stream, pixels / np.float32(127.5) - 1)
  assert compare.relative_error(mean, want) < 1e-5
  out = np.concatenate(list(stream.decode_pixels(mean)), axis=1)
  assert out.dtype == np.uint8 and out.shape == pixels.shape
  frames = decode(stream, mean)
  np.testing.assert_array_equal(
    out, np.clip(np.rint((frames + 1) * 127.5), 0, 255)
  )


def test_two_programs_serve_every_length(stream):
  list(stream.decode(tiny_vae.latents(5, 2, 2)))
  with jax.no_tracing():
    frames = [f.shape[1] for f in stream.decode(tiny_vae.latents(253, 2, 2))]
  assert frames == [5] + [4] * 125


def test_device_memory_does_not_grow(stream):
  def peak(frames):
    sizes = []
    for _ in stream.decode(tiny_vae.latents(frames, 2, 2)):
      sizes.append(sum(x.nbytes for x in jax.live_arrays()))
    return max(sizes)

  peak(5)
  assert peak(65) <= peak(13)


def memory(config, frames, height, width):
  """Returns the bytes of temporaries to decode latents in one program."""
  vae = CausalVAE(config)
  params = jax.eval_shape(
    vae.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 1, 8, 8, 3), jnp.float32),
  )
  latents = jax.ShapeDtypeStruct(
    (1, frames, height, width, config.latent_channels), jnp.float32
  )
  decode = jax.jit(lambda p, z: vae.apply(p, z, method='decode'))
  compiled = decode.lower(params, latents).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_of_one_program_does_not_grow():
  # Tiny buffers are packed differently for a few chunks.
  long, short = (memory(tiny_vae.CONFIG, f, 8, 8) for f in (501, 53))
  assert long <= short


@pytest.mark.slow
def test_memory_at_480x720_does_not_grow():
  config = CausalVAEConfig()
  long, short = (memory(config, f, 60, 90) for f in (253, 13))
  assert long <= short < 14 * 2**30


def test_bfloat16_runs_through(params):
  stream = stream_lib.VAEStream(tiny_vae.CONFIG, params, dtype='bfloat16')
  exact = stream_lib.VAEStream(tiny_vae.CONFIG, params)
  mean, _ = encode(stream, tiny_vae.clip(17, 32, 32))
  want, _ = encode(exact, tiny_vae.clip(17, 32, 32))
  assert mean.dtype == np.float32
  assert 1e-5 < compare.relative_error(mean, want) < 0.05


def test_parts_of_frames():
  mesh = lambda count, h, w: tuple(
    stream_lib._spatial_mesh(tuple(range(count)), h, w).devices.shape
  )
  assert mesh(8, 60, 90) == (4, 2)
  assert mesh(4, 60, 90) == (2, 2)
  assert mesh(8, 7, 11) == (1, 1)
  assert mesh(8, 4, 4) == (2, 2)  # At least two rows per part.


def test_tiles_of_cogvideox():
  config, tiling = CausalVAEConfig(), tiling_lib.Tiling()
  tiles = tiling.decoding(config, 60, 90)
  assert tiles.rows == (0, 25, 50) and tiles.columns == (0, 36, 72)
  assert (tiles.fade_height, tiles.keep_width) == (40, 288)
  tiles = tiling.encoding(config, 480, 720)
  assert tiles.rows == (0, 200, 400) and tiles.columns == (0, 288, 576)
  assert (tiles.fade_height, tiles.fade_width) == (5, 9)
  assert tiling.decoding(config, 30, 45) is None


def test_bad_sizes(stream, params):
  with pytest.raises(ValueError, match='8 frames cannot be encoded'):
    next(stream.encode(tiny_vae.clip(8, 16, 16)))
  with pytest.raises(ValueError, match='not .batch, frames, height, width, 4'):
    next(stream.decode(tiny_vae.clip(8, 16, 16)))
  with pytest.raises(ValueError, match='overlap_width 1 .* for example 0.2'):
    tiling_lib.Tiling(overlap_width=1)
  tiled = stream_lib.VAEStream(
    tiny_vae.CONFIG, params, tiling=tiling_lib.Tiling(19, 16)
  )
  with pytest.raises(ValueError, match='19x16 .* multiples of 2'):
    next(tiled.encode(tiny_vae.clip(9, 32, 32)))
