"""The inflated U-Net against the reference and diffusers, and its properties.

fixtures/tiny_sd was written by diffusers, see fixtures/make_sd.py. The golden
files contain Tune-A-Video's numbers.
"""

import dataclasses
import functools

import jax
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import compare
from tests.helpers import compiler
from tests.helpers import jaxprs
from ttt_jax.convert import load_unet
from ttt_jax.models import frames as frames_lib
from ttt_jax.models.unet3d import attention
from ttt_jax.models.unet3d import unet

TINY = unet.UNet3DConfig(
  block_out_channels=(4, 8),
  layers_per_block=1,
  norm_num_groups=2,
  cross_attention=(True, False),
  num_heads=(2, 4),
  text_dim=6,
)


def last(x):
  """Moves the channels of [B, c, F, h, w] to the end."""
  return np.moveaxis(x, 1, -1)


@functools.partial(jax.jit, static_argnums=0)
def apply(config, params, latents, text, timesteps):
  return unet.UNet3D(config).apply({'params': params}, latents, text, timesteps)


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs():
  return draw(0, 2, 3, 4, 4, 4), draw(1, 2, 5, 6), np.float32([10, 900])


def random_params(config, seed=0):
  """Returns random parameters: zeros would hide the layers that they feed."""
  leaves, tree = jax.tree.flatten(unet.abstract_params(config))
  return jax.tree.unflatten(
    tree, [draw([seed, i], *leaf.shape) * 0.3 for i, leaf in enumerate(leaves)]
  )


@pytest.fixture(scope='module', name='io')
def _io(golden):
  with np.load(golden('tav_unet2d') / 'io.npz') as io:
    return dict(io)


@pytest.mark.optimized
def test_inflated_output_of_the_reference(golden, io):
  with compiler.level(optimized=False):  # Initial values of what is missing.
    config, params = load_unet(golden('tav_unet2d'))
    _, fresh = load_unet(golden('tav_unet2d'), fresh=True)
  args = (
    last(io['sample']),
    io['encoder_hidden_states'],
    io['timestep'].reshape(1),
  )
  found = apply(config, params, *args)
  assert compare.relative_error(found, last(io['out'])) < 2e-5
  # A fresh inflation equals the reference without temporal attention. The
  # reference's own fresh inflation has a random bias, see still clips below.
  found = apply(config, fresh, *args)
  assert compare.relative_error(found, last(io['out_notemp'])) < 2e-5


@pytest.mark.slow  # Larger than the 2-D model of the next test.
@pytest.mark.optimized
def test_2d_output_of_diffusers(golden, io):
  config, params = load_unet(golden('tav_unet2d'), temporal=False)
  pictures = np.swapaxes(last(io['sample']), 0, 1)
  found = apply(
    config,
    params,
    pictures,
    np.repeat(io['encoder_hidden_states'], len(pictures), 0),
    np.repeat(io['timestep'], len(pictures)),
  )
  want = np.swapaxes(last(io['out2d_per_frame']), 0, 1)
  assert compare.relative_error(found, want) < 2e-5


def test_2d_output_of_a_tiny_stable_diffusion_2(fixtures):
  folder = fixtures / 'tiny_sd'
  want = np.load(folder / 'numbers.npz')
  config, params = load_unet(folder, dtype=np.float32, temporal=False)
  pictures = last(want['latents'])[:, None]
  found = apply(config, params, pictures, want['states'][:2], want['timesteps'])
  assert compare.relative_error(found[:, 0], last(want['output'])) < 2e-5


@pytest.mark.optimized
def test_sparse_causal_attention_of_the_reference(io):
  frames = frames_lib.Frames(int(io['sc_video_length']))
  params = {
    name: {'kernel': io[f'sc_{name}.weight'].T}
    for name in ('to_q', 'to_k', 'to_v')
  }
  params['to_out'] = {
    'kernel': io['sc_to_out.0.weight'].T,
    'bias': io['sc_to_out.0.bias'],
  }
  for batch_size in (None, 3):
    module = attention.SparseCausalAttention(
      heads=int(io['sc_heads']), dtype=jnp.float32, batch_size=batch_size
    )
    found = module.apply({'params': params}, io['sc_x'], frames)
    assert compare.relative_error(found, io['sc_out']) < 2e-5


def test_frames_attend_to_the_first_and_the_previous_one():
  x = np.arange(6.0).reshape(6, 1, 1)  # two clips of three frames
  found = frames_lib.Frames(3).first_and_previous(x)[..., 0]
  assert found.tolist() == [[0, 0], [0, 0], [0, 1], [3, 3], [3, 3], [3, 4]]


def test_a_fresh_inflation_is_the_2d_model_on_still_clips(fixtures):
  load = lambda **choices: load_unet(
    fixtures / 'tiny_sd', dtype=np.float32, **choices
  )
  numbers = np.load(fixtures / 'tiny_sd/numbers.npz')
  want = last(numbers['output'])[:, None]
  args = numbers['states'][:2], numbers['timesteps']
  picture = last(numbers['latents'])[:, None]
  still = np.repeat(picture, 3, axis=1)
  config, params = load()
  fresh = params['mid_block_attentions_0']['block']['attn_temp']
  assert not np.any(fresh['to_out']['kernel'])
  assert not np.any(fresh['to_out']['bias'])
  assert np.any(fresh['to_q']['kernel'])
  found = apply(config, params, still, *args)
  assert compare.relative_error(found, np.repeat(want, 3, axis=1)) < 2e-5
  # With the reference's bias the outputs differ.
  _, quirk = load(reference_bias=True)
  bias = quirk['mid_block_attentions_0']['block']['attn_temp']['to_out']['bias']
  assert 0.01 < np.abs(bias).max() <= 1 / np.sqrt(len(bias))
  found = apply(config, quirk, still, *args)
  assert compare.relative_error(found, np.repeat(want, 3, axis=1)) > 1e-3


def test_frames_mix_and_clips_of_a_batch_do_not():
  params = random_params(TINY)
  latents, text, timesteps = inputs()
  before = np.asarray(apply(TINY, params, latents, text, timesteps))
  latents[1, 2] += 1
  after = np.asarray(apply(TINY, params, latents, text, timesteps))
  np.testing.assert_array_equal(before[0], after[0])
  assert (np.abs(before[1] - after[1]).max(axis=(1, 2, 3)) > 1e-3).all()
  # Texts of segments are concatenated.
  np.testing.assert_allclose(
    apply(TINY, params, latents, text[:, None], timesteps), after, atol=1e-5
  )


def test_attention_of_a_few_frames_at_a_time():
  q, k, v = draw(5, 3, 5, 4, 2, 2)

  def loss(q, k, v, batch_size):
    return jnp.square(attention.attend(q, k, v, batch_size)).sum()

  gradient = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
  for batch_size in (1, 2, 5):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
      gradient(q, k, v, batch_size),
      gradient(q, k, v, None),
    )


def test_splash_attention_of_lengths_that_need_padding():
  q, keys = draw(6, 1, 40, 1, 8), draw(7, 2, 1, 1100, 1, 8)

  with pltpu.force_tpu_interpret_mode():
    found = attention.attend(q, *keys, None, 'splash')
  np.testing.assert_allclose(found, attention.attend(q, *keys), atol=2e-6)


@pytest.mark.slow
def test_less_memory_gives_the_same_gradients():
  params = random_params(TINY)

  @functools.partial(jax.jit, static_argnums=1)
  @jax.grad
  def gradient(params, config):
    return jnp.square(apply(config, params, *inputs())).mean()

  want = gradient(params, TINY)
  less = dataclasses.replace(TINY, remat='layer', attention_frames=4)
  found = gradient(params, less)
  scale = max(np.abs(x).max() for x in jax.tree.leaves(want))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * scale),
    found,
    want,
  )


def test_bfloat16_keeps_norms_and_softmax_in_float32():
  config = dataclasses.replace(TINY, dtype='bfloat16')
  params = random_params(TINY)
  args = inputs()
  jaxpr = jax.make_jaxpr(apply, static_argnums=0)(config, params, *args)
  types = set(jaxprs.operations(jaxpr, ('rsqrt', 'exp', 'reduce_max')))
  assert {name for name, _ in types} == {'rsqrt', 'exp', 'reduce_max'}
  assert {dtype for _, dtype in types} == {np.dtype(np.float32)}
  assert any(
    dtype == jnp.bfloat16
    for _, dtype in jaxprs.operations(jaxpr, ('conv_general_dilated',))
  )
  found = apply(config, params, *args)
  assert found.dtype == jnp.float32
  assert (
    1e-4
    < compare.relative_error(found, np.asarray(apply(TINY, params, *args)))
    < 0.1
  )


def test_remat_wraps_each_layer():
  params, args = random_params(TINY), inputs()
  count = lambda config: sum(
    1
    for _ in jaxprs.operations(
      jax.make_jaxpr(apply, static_argnums=0)(config, params, *args),
      ('remat2', 'checkpoint', 'remat'),
    )
  )
  # Residual blocks: 2 down, 2 in the middle, 4 up; transformers: 1, 1, 2.
  assert count(TINY) == 0
  assert count(dataclasses.replace(TINY, remat='layer')) == 12


def test_the_defaults_are_stable_diffusion_1():
  params = unet.abstract_params(unet.UNet3DConfig(temporal=False))
  # Number of parameters of runwayml's 1.5 in diffusers.
  assert sum(x.size for x in jax.tree.leaves(params)) == 859_520_964


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(prediction='sample'), "'sample'; expected one of epsilon, v_pred"),
    (dict(dtype='float16'), "'float16'; expected one of float32, bfloat16"),
    (dict(remat='all'), "'all'; expected one of none, layer"),
    (dict(num_heads=(2,)), 'one value for each of the 2 levels'),
    (dict(num_heads=(3, 2)), '4 is not a multiple of its 3 heads'),
    (dict(norm_num_groups=3), '4 is not a multiple of norm_num_groups 3'),
    (dict(attention_frames=0), 'attention_frames is 0; expected a whole'),
  ],
)
def test_sizes_that_cannot_work(fields, message):
  with pytest.raises(ValueError, match=message) as e:
    dataclasses.replace(TINY, **fields)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'latents, text, message',
  [
    ((1, 3, 5, 4, 4), (1, 5, 6), '5 x 4; both must be multiples of 2'),
    ((1, 3, 4, 4, 3), (1, 5, 6), r'must be \[B, F, h, w, 4\]'),
    ((2, 3, 4, 4, 4), (1, 5, 6), r'must be \[2, L, 6\]'),
    ((1, 3, 4, 4, 4), (1, 5, 7), r'must be \[1, L, 6\]'),
  ],
)
def test_inputs_that_do_not_fit(latents, text, message):
  with pytest.raises(ValueError, match=message):
    TINY.check_inputs(latents, text)
