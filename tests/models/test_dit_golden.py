"""The transformer against the paper's code: outputs, loss and gradients.

Three scenes are compared with the numbers in which every token keeps its own
inner step size ("pertoken"); the paper's code misplaces them there.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tests.helpers import compare
from tests.helpers import reference_order
from ttt_jax import convert
from ttt_jax.convert import reference
from ttt_jax.convert import rules
from ttt_jax.diffusion import objective
from ttt_jax.diffusion import schedule
from ttt_jax.models import dit
from ttt_jax.models import embeddings
from ttt_jax.models.dit import block

pytestmark = pytest.mark.optimized


@pytest.fixture(scope='module', params=['dit_mlp', 'dit_linear'])
def case(request, golden):
  name = request.param
  config, params = convert.load_reference(
    golden(f'{name}.safetensors'), golden(f'{name}_config.json')
  )
  return (
    config,
    params,
    np.load(golden(f'{name}.npz')),
    np.load(golden(f'{name}_pertoken.npz')),
  )


def channels_last(video):
  return np.moveaxis(video, 2, -1)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.grad, argnums=1, has_aux=True)
def gradient(config, params, arrays, levels):
  """Returns the loss's gradient and (loss of each clip, predicted v)."""
  outputs = []

  def denoise(x, t):
    module = dit.DiffusionTransformer(config)
    outputs.append(module.apply({'params': params}, x, arrays['text'], t))
    return outputs[-1]

  loss, aux = objective.diffusion_loss(
    denoise,
    arrays['video'],
    schedule=levels,
    timesteps=arrays['timesteps'],
    noise=arrays['noise'],
  )
  return loss, (aux['per_sample_loss'], *outputs)


def inputs(arrays, scenes, timesteps):
  names = dict(video='video', text='text', noise='noise', timesteps=timesteps)
  found = {k: arrays[f'{scenes}_{name}'] for k, name in names.items()}
  found['timesteps'] = np.int32(found['timesteps'])
  return found | {k: channels_last(found[k]) for k in ('video', 'noise')}


def check_output(out, golden):
  assert compare.relative_error(out, channels_last(golden)) < 2e-5


def test_output_of_one_scene(case):
  config, params, arrays, _ = case
  given = inputs(arrays, 'single', 'timesteps')
  out = jax.jit(dit.DiffusionTransformer(config).apply)(
    {'params': params}, given['video'], given['text'], given['timesteps']
  )
  check_output(out, arrays['single_out'])


def test_output_of_three_scenes(case):
  config, params, arrays, per_token = case
  given = inputs(arrays, 'multi', 'timesteps')
  # Without noise, and with the program of the gradients.
  _, (_, out) = gradient(config, params, given, np.ones(1000, np.float32))
  check_output(out, per_token['multi_out'])


def test_misplaced_step_sizes_would_be_seen(case):
  # The two goldens of three scenes differ by more than the tolerance, so the
  # test above tells the forms apart.
  _, _, arrays, per_token = case
  difference = np.abs(arrays['multi_out'] - per_token['multi_out']).max()
  assert difference > 1e-4 * np.abs(arrays['multi_out']).max()


def single_layer(case):
  """Returns order, reading order, input, context of a block, arrays."""
  config, _, arrays, _ = case
  order = config.order((2, 13, 4, 6, 16), (2, 1, 18, 40))
  read = reference_order.text_first(order)
  x = np.concatenate(
    [arrays['single_layer_text_in'], arrays['single_layer_vid_in']], axis=1
  )[:, np.argsort(read)]
  context = block.make_context(config, order, arrays['single_layer_t_emb'])
  return order, read, x, context, arrays


def test_one_block(case):
  config, params, _, _ = case
  order, read, x, context, arrays = single_layer(case)
  out, _ = jax.jit(block.Block(config, order).apply)(
    {'params': jax.tree.map(lambda p: p[0], params['layers'])}, x, context
  )
  golden = np.concatenate(
    [arrays['single_layer_text_out'], arrays['single_layer_vid_out']], axis=1
  )
  assert compare.relative_error(out[:, read], golden) < 2e-5


def test_attention_and_gated_ttt_of_a_block(case):
  config, params, _, _ = case
  order, read, x, context, arrays = single_layer(case)
  apply = functools.partial(
    block.MixerBlock(config, order).apply,
    capture_intermediates=lambda module, _: module.name == 'attn',
  )
  first = jax.tree.map(lambda p: p[0], params['layers']['seq'])
  out, state = jax.jit(apply)({'params': first}, x, context)
  attention = state['intermediates']['attn']['__call__'][0]
  assert (
    compare.relative_error(attention[:, read], arrays['single_layer_attn_out'])
    < 2e-5
  )
  assert (
    compare.relative_error(out[0][:, read], arrays['single_layer_ssm_out'])
    < 2e-5
  )


def test_timestep_embedding(golden):
  arrays = np.load(golden('schedule_sampler.npz'))
  ours = embeddings.timestep_embedding(
    jnp.asarray(arrays['timestep_embedding_t'], jnp.float32), 64
  )
  # float32 of a product near 1000 leaves 3e-5 in the sinusoid.
  np.testing.assert_allclose(ours, arrays['timestep_embedding_64'], atol=5e-5)


@pytest.mark.parametrize(
  'scenes', [pytest.param('single', marks=pytest.mark.slow), 'multi']
)
def test_loss_and_every_gradient_norm(case, scenes):
  config, params, arrays, per_token = case
  given = inputs(arrays, scenes, 'idx')
  levels = np.float32(schedule.zero_snr_schedule())
  grads, (losses, _) = gradient(config, params, given, levels)
  golden = per_token if scenes == 'multi' else arrays
  np.testing.assert_allclose(losses, golden[f'{scenes}_loss'], rtol=1e-5)
  # Turned back into the reference's names and shapes, one array a layer.
  ours = rules.export_params(reference.rules(config), grads)
  names = golden[f'{scenes}_grad_param_names']
  norms = golden[f'{scenes}_grad_param_norms']
  assert set(ours) == set(names)
  scale = norms.max()
  for name, norm in zip(names, norms):
    found = np.linalg.norm(ours[name].ravel())
    # Norms that are zero but for rounding are compared with the largest.
    assert abs(found - norm) <= 1e-4 * max(norm, 1e-3 * scale), name
  if scenes == 'multi':  # Full gradients exist for the reference's form only.
    return
  for key in arrays.files:
    if key.startswith('single_grad:'):
      full = arrays[key]
      error = np.abs(ours[key.partition(':')[2]] - full).max()
      assert error <= 1e-4 * np.abs(full).max() + 1e-12, key


def test_names_round_trip(case, golden):
  config, params, _, _ = case
  kind = config.mixer.removeprefix('ttt_')
  tensors = safetensors_numpy.load_file(golden(f'dit_{kind}.safetensors'))
  back = rules.export_params(reference.rules(config), params)
  assert set(back) == set(tensors)
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(back[name], tensor)


def test_config_of_other_sizes_names_the_differences(golden, tmp_path):
  fields = json.loads(golden('dit_mlp_config.json').read_text())
  other = tmp_path / 'config.json'
  other.write_text(json.dumps(fields | dict(num_layers=3, text_dim=20)))
  with pytest.raises(ValueError, match='47 problem') as e:
    convert.load_reference(golden('dit_mlp.safetensors'), other)
  # Of many problems the first of each kind come first.
  lines = str(e.value).splitlines()
  assert len(lines) == 12 and lines[-1].strip() == 'and 37 more'
  assert any('has 2 layers, the config requires 3' in line for line in lines)
  assert any('text/kernel has shape (40, 64)' in line for line in lines)
