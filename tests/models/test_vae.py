"""The causal video autoencoder against diffusers, and its chunks."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from safetensors.numpy import load_file

from tests.helpers import tiny_vae
from tests.helpers.tiny_vae import run
import ttt_jax
from ttt_jax.convert import load_vae
from ttt_jax.convert import save_vae
from ttt_jax.models.vae import causal_conv
from ttt_jax.models.vae import coder
from ttt_jax.models.vae.causal3d import CausalVAE
from ttt_jax.models.vae.causal3d import CausalVAEConfig

WEIGHTS = 'diffusion_pytorch_model.safetensors'
TINY = CausalVAEConfig(
  latent_channels=4,
  block_out_channels=(8, 8, 16),
  layers_per_block=1,
  norm_num_groups=4,
  patch_size=2,
  linear_shortcut=True,
  refine_linear=True,
  scaling_factor=(0.5, 1.0, 2.0, 4.0),
  shift=(0.1, -0.2, 0.3, 1.0),
)


@pytest.fixture(scope='module', name='tiny')
def _tiny():
  return tiny_vae.parameters(TINY, 0.1)


def clip(frames, seed=0):
  shape = (1, frames, 16, 16, 3)
  return jax.random.uniform(jax.random.key(seed), shape, minval=-1.0)


@pytest.mark.parametrize('frames', [1, 17])
@pytest.mark.optimized
def test_equals_diffusers(golden, frames):
  folder = golden('diffusers_vae')
  config, params = load_vae(folder)
  assert config.scaling_factor == 0.7
  vae = CausalVAE(dataclasses.replace(config, scaling_factor=1.0))
  with np.load(folder / 'io.npz') as file:
    io = {k: v.transpose(0, 2, 3, 4, 1) for k, v in file.items()}
  mean, logvar = run(vae, params, io[f'x_{frames}'], method='encode')
  latents = io[f'mean_{frames}']
  decoded = run(vae, params, latents, method='decode')
  found = {'mean': mean, 'logvar': logvar, 'decoded': decoded}
  for name, value in found.items():
    if f'{name}_{frames}' not in io:
      continue
    want = io[f'{name}_{frames}']
    error = np.abs(value - want).max()
    assert error <= 2e-5 * np.abs(want).max(), name


def test_one_pass_is_another_model(golden):
  folder = golden('diffusers_vae')
  config, params = load_vae(folder)
  single_chunk = dataclasses.replace(
    config, scaling_factor=1.0, encode_window=1000, decode_window=1000
  )
  with np.load(folder / 'io.npz') as file:
    x, want = (
      file[k].transpose(0, 2, 3, 4, 1) for k in ('x_17', 'mean_onepass_17')
    )
  mean, _ = run(CausalVAE(single_chunk), params, x, method='encode')
  assert np.abs(mean - want).max() <= 2e-5 * np.abs(want).max()


def test_loop_equals_unrolled_chunks(tiny):
  x = clip(25)
  loop, unrolled = (CausalVAE(TINY, unroll=u) for u in (False, True))
  latents, _ = run(loop, tiny, x, method='encode')
  want, _ = run(unrolled, tiny, x, method='encode')
  np.testing.assert_allclose(latents, want, atol=2e-5)
  np.testing.assert_allclose(
    run(loop, tiny, latents, method='decode'),
    run(unrolled, tiny, latents, method='decode'),
    atol=2e-5,
  )


def test_refined_pixels_continue_those_of_the_chunk_before(tiny):
  latents = jax.random.normal(jax.random.key(0), (1, 5, 2, 2, 4))
  decode = jax.jit(coder.Decoder(TINY).apply)
  params = {'params': tiny['decoder']}
  _, cache = decode(params, latents[:, :3])
  frames, _ = decode(params, latents[:, 3:], cache)
  alone = cache | {'refine': jnp.zeros_like(cache['refine'])}
  changed, _ = decode(params, latents[:, 3:], alone)
  assert np.abs(frames - changed).max() > 1e-3


def test_chunks_do_not_depend_on_later_chunks(tiny):
  x = clip(25)
  changed = x.at[:, 17:].set(0.0)
  vae = CausalVAE(TINY)
  a, _ = run(vae, tiny, x, method='encode')
  b, _ = run(vae, tiny, changed, method='encode')
  np.testing.assert_array_equal(a[:, :5], b[:, :5])
  assert np.abs(a[:, 5:] - b[:, 5:]).max() > 1e-3


def test_program_does_not_grow_with_length(tiny):
  def size(frames):
    latents = jnp.zeros((1, frames, 2, 2, 4))
    decode = jax.jit(
      lambda z: CausalVAE(TINY).apply({'params': tiny}, z, method='decode')
    )
    return len(decode.lower(latents).as_text().splitlines())

  assert size(253) == size(13)


def test_units_are_applied_once():
  config = tiny_vae.CONFIG
  params = tiny_vae.parameters(config, 0.1)
  plain = dataclasses.replace(config, scaling_factor=1.0, shift=None)
  x = tiny_vae.clip(25, 16, 16)
  mean, logvar = run(CausalVAE(config), params, x, method='encode')
  raw, raw_logvar = run(CausalVAE(plain), params, x, method='encode')
  scale, shift = np.array(config.scaling_factor), np.array(config.shift)
  np.testing.assert_allclose(mean, (raw - shift) * scale, atol=1e-5)
  np.testing.assert_allclose(logvar, raw_logvar + 2 * np.log(scale), atol=1e-5)
  a = run(CausalVAE(config), params, mean, method='decode')
  b = run(CausalVAE(plain), params, raw, method='decode')
  np.testing.assert_allclose(a, b, atol=1e-4)


def test_causal_conv_equals_xla():
  x = jax.random.normal(jax.random.key(1), (2, 6, 5, 7, 3))
  kernel = jax.random.normal(jax.random.key(2), (3, 3, 3, 3, 4))
  want = jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1, 1),
    [(0, 0), (1, 1), (1, 1)],
    dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
  )
  np.testing.assert_allclose(
    causal_conv.causal_conv3d(x, kernel), want, atol=1e-4
  )
  # Frame by frame, with a function before and after the convolution.
  found, cache = causal_conv.conv_frame_by_frame(
    x[:, 2:] / 2,
    kernel,
    x[:, :2],
    lambda z, maps: 2 * z,
    want,
    lambda y, maps: y - maps,
  )
  np.testing.assert_allclose(found, np.zeros_like(want), atol=1e-4)
  np.testing.assert_allclose(cache, x[:, -2:], atol=1e-6)


def test_upsample_conv_equals_repetition_before_a_convolution():
  x = jax.random.normal(jax.random.key(1), (2, 3, 5, 7, 3))
  kernel = jax.random.normal(jax.random.key(2), (3, 3, 3, 4))
  doubled = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
  np.testing.assert_allclose(
    causal_conv.upsample_conv(x, kernel),
    causal_conv.conv2d(doubled, kernel),
    atol=1e-5,
  )


def test_unrolled_gradients_equal_looped_ones():
  config = tiny_vae.CONFIG
  params = tiny_vae.parameters(config)
  x = tiny_vae.clip(5, 32, 32)

  def gradient(**options):
    vae = CausalVAE(config, **options)
    loss = lambda p: jnp.square(
      vae.apply({'params': p}, x, method='encode')[0]
    ).mean()
    return tiny_vae.quickly(jax.grad(loss), params)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    gradient(),
    gradient(unroll=True),
  )


@pytest.mark.parametrize('frames', [8, 9])
def test_3d_patches_have_an_inverse(frames):
  x = clip(frames).at[:, :1].set(0.25)
  patches = coder.patchify3d(x, 4, 8)
  assert patches.shape == (1, -(-frames // 4), 2, 2, 4 * 8 * 8 * 3)
  back = coder.unpatchify3d(patches, 4, 8, single_first=frames % 4 == 1)
  np.testing.assert_allclose(back, x, atol=1e-6)


@pytest.mark.parametrize(
  'shape, message',
  [
    ((1, 8, 16, 16, 3), '8 frames .* e.g. 5'),
    ((1, 9, 20, 16, 3), '20x16 .* multiples of 8'),
    ((9, 16, 16, 3), 'not .batch, frames'),
  ],
)
def test_sizes_that_cannot_be_encoded(tiny, shape, message):
  with pytest.raises(ValueError, match=message):
    run(CausalVAE(TINY), tiny, jnp.zeros(shape), method='encode')


def test_config_errors():
  with pytest.raises(ValueError, match='shift has 2 values for 16'):
    CausalVAEConfig(shift=(1.0, 2.0))
  with pytest.raises(ValueError, match='encode_window 6'):
    CausalVAEConfig(encode_window=6)
  with pytest.raises(ValueError, match='not a multiple of norm_num_groups'):
    CausalVAEConfig(block_out_channels=(30, 32, 64))
  with pytest.raises(ValueError, match='set linear_shortcut, too'):
    CausalVAEConfig(refine_linear=True)


def test_save_and_load_are_exact(tiny, tmp_path):
  save_vae(TINY, tiny, tmp_path)
  config, params = load_vae(tmp_path)
  assert config == TINY
  jax.tree.map(np.testing.assert_array_equal, tiny, params)
  save_vae(TINY, tiny, tmp_path / 'half', dtype=np.float16)
  _, half = load_vae(tmp_path / 'half')
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(np.float16(a), b), tiny, half
  )


def test_written_file_has_the_names_of_diffusers(golden, tmp_path):
  folder = golden('diffusers_vae')
  save_vae(*load_vae(folder), tmp_path)
  want, found = load_file(folder / WEIGHTS), load_file(tmp_path / WEIGHTS)
  assert want.keys() == found.keys()
  for key, value in want.items():
    np.testing.assert_array_equal(value, found[key])


def test_missing_and_broken_files(tiny, tmp_path):
  with pytest.raises(FileNotFoundError, match='no config.json'):
    load_vae(tmp_path)
  save_vae(TINY, tiny, tmp_path)
  path = tmp_path / WEIGHTS
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(ValueError, match='not a complete safetensors file'):
    load_vae(tmp_path)
  path.unlink()
  with pytest.raises(FileNotFoundError, match='no weights at'):
    load_vae(tmp_path)


def test_unsupported_configs(tiny, tmp_path):
  save_vae(TINY, tiny, tmp_path)
  path = tmp_path / 'config.json'
  found = json.loads(path.read_text())
  path.write_text(json.dumps(found | {'use_quant_conv': True}))
  with pytest.raises(ValueError, match='use_quant_conv = True'):
    load_vae(tmp_path)
  path.write_text(json.dumps(found | {'_class_name': 'AutoencoderKL'}))
  with pytest.raises(ValueError, match='describes a "AutoencoderKL"'):
    load_vae(tmp_path)


def test_shipped_autoencoder_on_held_out_frames(fixtures):
  folder = pathlib.Path(ttt_jax.__file__).parent / 'assets/quickstart_vae'
  config, params = load_vae(folder)
  strip = np.asarray(Image.open(fixtures / 'vae_held_out.png'))
  frames = strip.reshape(64, 9, 96, 3).transpose(1, 0, 2, 3)
  x = frames[None] / np.float32(127.5) - 1
  vae = CausalVAE(config)
  mean, logvar = run(vae, params, x, method='encode')
  assert mean.shape == (1, 3, 8, 12, 16)
  assert float(logvar.max()) < 0.0
  out = run(vae, params, mean, method='decode')
  error = (np.clip(out[0], -1, 1) - x[0]) / 2
  assert -10 * np.log10((error**2).mean()) > 26.0
