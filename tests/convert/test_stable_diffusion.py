"""Stable Diffusion folders in and out: completeness, exactness, errors."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tests.helpers import configs
from ttt_jax import convert
from ttt_jax import sharding
from ttt_jax.convert import registry
from ttt_jax.convert import stable_diffusion
from ttt_jax.models.unet3d import unet

tune_a_video = configs.load('tune_a_video')

PARTS = {
  'unet': (convert.load_unet, convert.save_unet, convert.unet.FORMAT.weights),
  'vae': (
    functools.partial(convert.load_kl_vae, dtype=None),
    convert.save_kl_vae,
    convert.kl_vae.FORMAT.weights,
  ),
  'text_encoder': (
    convert.load_clip,
    convert.save_clip,
    convert.clip.FORMAT.weights,
  ),
}


@pytest.fixture(name='tiny')
def _tiny(fixtures):
  return fixtures / 'tiny_sd'


@pytest.fixture(name='copy')
def _copy(tiny, tmp_path):
  return shutil.copytree(tiny, tmp_path / 'model')


def change(path, **fields):
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@functools.cache
def abstract(config):
  return unet.abstract_params(config)


def scrambled(config):
  """Returns random parameters, each of them different."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
    abstract(config),
  )


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert jax.tree.map(lambda x: x.dtype, a) == jax.tree.map(
    lambda x: x.dtype, b
  )


@pytest.mark.parametrize('part', PARTS)
def test_there_and_back_is_exact(tiny, tmp_path, part):
  load, save, weights = PARTS[part]
  config, params = load(tiny)
  save(config, params, tmp_path / part)
  want, found = (
    safetensors_numpy.load_file(folder / part / f'{weights}.safetensors')
    for folder in (tiny, tmp_path)
  )
  strip = lambda tree: {k.removeprefix('text_model.'): tree[k] for k in tree}
  equal(strip(want), strip(found))
  assert {x.dtype for x in found.values()} == {np.dtype(np.float16)}
  assert load(tmp_path / part)[0] == config
  theirs, ours = (
    json.loads((folder / part / 'config.json').read_text())
    for folder in (tiny, tmp_path)
  )
  # Fields that we do not write are defaults, or do not change the function.
  for key in ours.keys() & theirs.keys():
    assert ours[key] == theirs[key], key
  with pytest.raises(FileExistsError, match='is not replaced'):
    save(config, params, tmp_path / part)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, np.float32])
def test_a_tuned_model_and_its_temporal_attention(golden, tmp_path, dtype):
  config, _ = convert.load_unet(golden('tav_unet2d'))
  params = jax.tree.map(lambda x: x.astype(dtype), scrambled(config))
  convert.save_unet(config, params, tmp_path, shard_bytes=200_000)
  found_config, found = convert.load_unet(tmp_path)
  assert found_config == config
  equal(found, params)
  assert len(list(tmp_path.glob('diffusion_pytorch_model-*'))) > 1
  # The names of diffusers and of Tune-A-Video.
  for name in ('diffusion_pytorch_model', 'temporal_extra'):
    want = safetensors_numpy.load_file(
      golden('tav_unet2d') / f'{name}.safetensors'
    )
    keys = set()
    for path in tmp_path.glob(f'{name}*.safetensors'):
      for key, value in safetensors_numpy.load_file(path).items():
        keys.add(key)
        assert value.shape == want[key].shape
    assert keys == want.keys()
  with pytest.raises(FileExistsError, match='is not replaced'):
    convert.save_unet(config, params, tmp_path)


def test_fresh_temporal_attention_is_seeded(tiny):
  load = lambda **choices: convert.load_unet(tiny, **choices)[1]
  block = lambda params: params['mid_block_attentions_0']['block']
  a, b = block(load(seed=3)), block(load(seed=3))
  equal(a, b)
  # Parameters keep the type of the files; initial values are float32.
  assert a['attn1']['to_q']['kernel'].dtype == np.float16
  assert a['attn_temp']['to_q']['kernel'].dtype == np.float32
  assert np.any(
    block(load())['attn_temp']['to_q']['kernel']
    != a['attn_temp']['to_q']['kernel']
  )
  assert not np.any(a['attn_temp']['to_out']['bias'])
  assert 'attn_temp' not in block(load(temporal=False))


def test_straight_onto_a_mesh(tiny):
  mesh = sharding.make_mesh(dict(data=1))
  place = functools.partial(sharding.param_sharding, mesh)
  for load, _, _ in PARTS.values():
    _, params = load(tiny, sharding=place)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(params))
    equal(params, load(tiny)[1])


def test_prediction(copy, tmp_path):
  load = lambda folder: convert.load_unet(folder, temporal=False)
  config, params = load(copy)
  assert config.prediction == 'v_prediction'
  # Without a scheduler, config.json contains the prediction.
  convert.save_unet(config, params, tmp_path / 'alone')
  assert load(tmp_path / 'alone')[0] == config
  change(copy / 'scheduler/scheduler_config.json', prediction_type='epsilon')
  assert load(copy / 'unet')[0].prediction == 'epsilon'
  assert load(copy)[0].num_heads == (1, 2)
  change(copy / 'unet/config.json', attention_head_dim=2)
  assert load(copy)[0].num_heads == (2, 2)


def test_names_of_old_files(copy):
  path = copy / 'vae/diffusion_pytorch_model.safetensors'
  _, want = PARTS['vae'][0](copy)
  names = {
    'to_q': 'query',
    'to_k': 'key',
    'to_v': 'value',
    'to_out.0': 'proj_attn',
  }
  tensors = safetensors_numpy.load_file(path)
  for key in list(tensors):
    for new, old in names.items():
      if f'.{new}.' in key:
        tensors[key.replace(new, old)] = tensors.pop(key)
  safetensors_numpy.save_file(tensors, path)
  equal(PARTS['vae'][0](copy)[1], want)
  path = copy / 'text_encoder/model.safetensors'
  _, want = convert.load_clip(copy)
  tensors = {
    f'text_model.{key.removeprefix("text_model.")}': value
    for key, value in safetensors_numpy.load_file(path).items()
  }
  tensors['text_model.embeddings.position_ids'] = np.arange(77)[None]
  safetensors_numpy.save_file(tensors, path)
  equal(convert.load_clip(copy)[1], want)


@pytest.mark.parametrize('part', PARTS)
def test_a_folder_without_a_part(copy, part):
  load, _, weights = PARTS[part]
  (copy / part / f'{weights}.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match=f'no weights at .*{part}'):
    load(copy)
  shutil.rmtree(copy / part)
  with pytest.raises(FileNotFoundError, match=f'has no {part}: no config'):
    load(copy)


@pytest.mark.parametrize(
  'part, fields, message',
  [
    (
      'unet',
      dict(_class_name='SD3Transformer2DModel'),
      'a .?SD3Transformer2DModel.?: only UNet2DConditionModel.*1.x and 2.x',
    ),
    (
      'unet',
      dict(addition_embed_type='text_time'),
      'is Stable Diffusion XL: Stable Diffusion 1.x',
    ),
    ('unet', dict(num_class_embeds=7), 'num_class_embeds = 7: only None'),
    (
      'unet',
      dict(attention_head_dim=None),
      'attention_head_dim is null; expected a whole',
    ),
    ('unet', dict(attention_head_dim=[3, 2]), 'of its 3 heads'),
    ('unet', dict(in_channels=[4]), r'in_channels is \[4\]; expected a whole'),
    ('unet', dict(up_block_types=['UpBlock2D'] * 2), 'they must be 2 of'),
    (
      'unet',
      dict(block_out_channels=[4, 4]),
      r'137 problem\(s\):(.|\n)*and 127 more',
    ),
    ('vae', dict(_class_name='AutoencoderTiny'), 'only AutoencoderKL can'),
    ('vae', dict(use_quant_conv=False), 'use_quant_conv = False: only'),
    (
      'vae',
      dict(scaling_factor=0),
      'scaling_factor is 0; expected a number > 0',
    ),
    ('vae', dict(layers_per_block=2), r'32 problem\(s\):(.|\n)* is missing'),
    (
      'text_encoder',
      dict(architectures=['CLIPTextModelWithProjection']),
      'CLIPTextModelWithProjection.* of .*: only CLIPTextModel',
    ),
    ('text_encoder', dict(model_type='t5'), 'model_type "t5": only'),
    ('text_encoder', dict(hidden_act='relu'), "'relu'; expected one of quick"),
    (
      'text_encoder',
      dict(hidden_size=0),
      'hidden_size is 0; expected a whole number >= 1',
    ),
    ('text_encoder', dict(intermediate_size=9), r'problem\(s\).*up/bias'),
  ],
)
def test_models_that_do_not_fit(copy, part, fields, message):
  change(copy / part / 'config.json', **fields)
  with pytest.raises(ValueError, match=message) as e:
    PARTS[part][0](copy)
  assert len(str(e.value)) < 2000 and str(e.value).count('\n') <= 11


@pytest.mark.parametrize(
  'name, title',
  [('StableDiffusionXLPipeline', 'XL'), ('StableDiffusion3Pipeline', '3')],
)
def test_other_generations(copy, name, title):
  change(copy / 'model_index.json', _class_name=name)
  for load in (
    *(load for load, _, _ in PARTS.values()),
    stable_diffusion.load_schedule,
    registry.find_parts,
    # The config of training reads the folder.
    lambda folder: tune_a_video.get_config(str(folder)),
  ):
    with pytest.raises(ValueError, match=f'is Stable Diffusion {title} '):
      load(copy)


def test_schedule(copy):
  found = stable_diffusion.load_schedule(copy)
  assert found == stable_diffusion.Schedule('v_prediction', 1, False)
  assert found == stable_diffusion.load_schedule(copy / 'scheduler')
  assert found.sampling(50).timesteps[-1] == 1
  path = copy / 'scheduler/scheduler_config.json'
  text = path.read_text()
  for fields, message in (
    (dict(beta_end=0.02), 'beta_end = 0.02: only 0.012 is'),
    (dict(prediction_type='sample'), 'prediction_type is "sample"; expected'),
    (dict(steps_offset=2), 'steps_offset is 2; expected a whole number <= 1'),
    (dict(rescale_betas_zero_snr=True), 'zero_snr = True: only False'),
  ):
    change(path, **fields)
    with pytest.raises(ValueError, match=message):
      stable_diffusion.load_schedule(copy)
    path.write_text(text)
  path.unlink()
  for load in (stable_diffusion.load_schedule, convert.load_unet):
    with pytest.raises(FileNotFoundError, match='has no scheduler: no '):
      load(copy)
