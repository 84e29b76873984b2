"""The transformer in diffusers' layout: numbers, round trips, refusals."""

import dataclasses
import functools
import json
import shutil

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import compare
from tests.helpers.random_params import random_params
from ttt_jax import convert
from ttt_jax.convert import safetensors_reader
from ttt_jax.models import dit
from ttt_jax.models.dit import mixers
from ttt_jax.runtime import files
from ttt_jax.train import init_from

POSITIONS = 'rope', 'sincos'


@functools.lru_cache
def compiled(config):
  return jax.jit(dit.DiffusionTransformer(config).apply)


def run(config, params, latents, text, time):
  """Returns outputs in diffusers' layout: frames before channels, one text."""
  out = compiled(config)(
    {'params': params},
    np.moveaxis(latents, 2, -1),
    text[:, None],
    np.float32(time),
  )
  return np.moveaxis(np.asarray(out), -1, 2)


def flat(params):
  return traverse_util.flatten_dict(params, sep='/')


def read(folder, name='diffusion_pytorch_model'):
  found = safetensors_reader.open_folder(folder, name)
  return {key: np.asarray(tensor) for key, tensor in found.items()}


@pytest.mark.parametrize('kind', POSITIONS)
@pytest.mark.optimized
def test_published_numbers(kind, golden):
  folder = golden(f'diffusers_transformer_{kind}')
  config, params = convert.load_dit(folder)
  arrays = np.load(folder / 'io.npz')
  for case in ('', 'offbase_') if kind == 'rope' else ('',):
    latents = arrays[f'{case}hidden_states']
    batch = slice(len(latents))
    out = run(
      config,
      params,
      latents,
      arrays['encoder_hidden_states'][batch],
      arrays['timestep'][batch],
    )
    assert compare.relative_error(out, arrays[f'{case}out']) < 2e-5


@pytest.mark.parametrize('kind', POSITIONS)
@pytest.mark.parametrize('size', ['base', 'other'])
def test_own_numbers(kind, size, fixtures):
  config, params = convert.load_dit(fixtures / f'tiny_{kind}')
  arrays = np.load(fixtures / f'tiny_{kind}' / 'numbers.npz')
  given = [arrays[f'{size}_{name}'] for name in ('latents', 'text', 'time')]
  assert (
    compare.relative_error(run(config, params, *given), arrays[f'{size}_out'])
    < 2e-5
  )


@pytest.mark.parametrize(
  'kind, change',
  [
    ('rope', dict(base_rows=0, base_columns=0)),
    ('rope', dict(norm_eps=1e-3)),
    ('sincos', dict(spatial_scale=1.0)),
    ('sincos', dict(temporal_scale=2.0)),
    ('sincos', dict(positions='rope')),
  ],
)
def test_every_option_of_the_config_changes_the_output(kind, change, fixtures):
  config, params = convert.load_dit(fixtures / f'tiny_{kind}')
  arrays = np.load(fixtures / f'tiny_{kind}' / 'numbers.npz')
  given = [arrays[f'other_{name}'] for name in ('latents', 'text', 'time')]
  out = run(dataclasses.replace(config, **change), params, *given)
  wanted = arrays['other_out']
  assert np.abs(out - wanted).max() > 1e-4 * np.abs(wanted).max()


def test_gates_of_zero_leave_the_model_as_it_was(fixtures):
  config, params = convert.load_dit(
    fixtures / 'tiny_rope', mixer='ttt_linear', mini_batch=8
  )
  arrays = np.load(fixtures / 'tiny_rope/numbers.npz')
  given = [arrays[f'base_{name}'] for name in ('latents', 'text', 'time')]
  gates = params['layers']['seq']['gates']
  off = jax.tree.map(np.zeros_like, gates)
  params['layers']['seq']['gates'] = off
  assert (
    compare.relative_error(run(config, params, *given), arrays['base_out'])
    < 2e-5
  )
  params['layers']['seq']['gates'] = gates
  moved = np.abs(run(config, params, *given) - arrays['base_out']).max()
  assert moved > 1e-4


@pytest.mark.parametrize('kind', POSITIONS)
def test_round_trip_is_the_same_bytes(kind, fixtures, tmp_path):
  source = fixtures / f'tiny_{kind}'
  convert.save_dit(*convert.load_dit(source), tmp_path / 'out')
  names = {path.name for path in (tmp_path / 'out').iterdir()}
  weights = 'diffusion_pytorch_model.safetensors'
  assert names == {'config.json', weights}
  assert (tmp_path / 'out' / weights).read_bytes() == (
    source / weights
  ).read_bytes()
  ours, theirs = (
    json.loads((folder / 'config.json').read_text())
    for folder in (tmp_path / 'out', source)
  )
  del theirs['_diffusers_version']
  assert ours == theirs


def test_shards_there_and_back(fixtures, tmp_path):
  source = fixtures / 'tiny_rope'
  config, params = convert.load_dit(source)
  convert.save_dit(config, params, tmp_path / 'a', shard_bytes=20_000)
  assert len(list((tmp_path / 'a').glob('*-of-0000*.safetensors'))) > 3
  again, loaded = convert.load_dit(tmp_path / 'a')
  assert again == config
  convert.save_dit(again, loaded, tmp_path / 'b')
  want, found = read(source), read(tmp_path / 'b')
  assert want.keys() == found.keys()
  for key, value in want.items():
    assert value.dtype == found[key].dtype == jnp.bfloat16
    np.testing.assert_array_equal(value, found[key])


def test_fresh_ttt_layers(fixtures):
  source = fixtures / 'tiny_rope'
  config, params = convert.load_dit(source, mixer='ttt_mlp', seed=3)
  assert (config.mixer, config.mini_batch) == ('ttt_mlp', 64)
  found = flat(params)
  wanted = flat(
    jax.jit(lambda key: dit.init_params(config, key))(jax.random.key(3))
  )
  assert found.keys() == wanted.keys()
  for path, value in found.items():
    if '/ttt/' in path or '/gates/' in path:
      np.testing.assert_array_equal(value, wanted[path])
      assert value.dtype == np.float32
    else:
      assert value.dtype == jnp.bfloat16
  assert (found['layers/seq/gates/forward_text'] == np.float32(0.1)).all()
  assert 0.018 < found['layers/seq/ttt/w1'].std() < 0.022
  _, other = convert.load_dit(source, mixer='ttt_mlp', seed=4)
  assert (
    other['layers']['seq']['ttt']['w1'] != params['layers']['seq']['ttt']['w1']
  ).all()


@pytest.mark.parametrize('mixer', ['ttt_mlp', 'ttt_linear'])
def test_ttt_layers_are_written_to_a_second_file(mixer, fixtures, tmp_path):
  source = fixtures / 'tiny_sincos'
  config, params = convert.load_dit(source, mixer=mixer, mini_batch=8)
  assert config.ttt_base_lr == (0.1 if mixer == 'ttt_mlp' else 1.0)
  # Trained values are not powers of two.
  ttt = params['layers']['seq']['ttt']
  ttt['w1'] = ttt['w1'] / np.float32(3)
  config = dataclasses.replace(config, gate_init=0.2)
  convert.save_dit(config, params, tmp_path / 'out')
  again, loaded = convert.load_dit(tmp_path / 'out')
  assert again == config
  for path, value in flat(params).items():
    np.testing.assert_array_equal(flat(loaded)[path], value)
  plain, without = convert.load_dit(tmp_path / 'out', mixer='none')
  assert plain.mixer == 'none' and '/ttt/' not in str(flat(without).keys())
  # The file for diffusers has the original keys.
  assert read(tmp_path / 'out').keys() == read(source).keys()
  for wrong in (dict(mini_batch=16), dict(mixer='ttt_nothing')):
    with pytest.raises(ValueError, match='were trained with'):
      convert.load_dit(tmp_path / 'out', **wrong)
  (tmp_path / 'out/ttt.json').unlink()
  with pytest.raises(FileNotFoundError, match='no ttt.json; copy it'):
    convert.load_dit(tmp_path / 'out')


@pytest.mark.parametrize('mixer', mixers.MIXERS)
def test_every_mixer_is_written_next_to_the_transformer(
  mixer, fixtures, tmp_path
):
  config, _ = convert.load_dit(fixtures / 'tiny_rope')
  preset = mixers.MIXERS[mixer].presets[-1]
  if preset == 'state':
    config = dataclasses.replace(config, model_dim=64, num_heads=4)
  config = dataclasses.replace(config, mixer=mixer, mixer_preset=preset)
  params = random_params(dit.abstract_params(config))
  convert.save_dit(config, params, tmp_path / 'out')
  scope = mixers.MIXERS[mixer].scope
  assert (tmp_path / f'out/{scope}.safetensors').is_file() == (mixer != 'none')
  if scope:
    # Exports of earlier versions have no fields that were added later.
    path = tmp_path / f'out/{scope}.json'
    found = files.read_json(path)
    files.write_json(
      {k: v for k, v in found.items() if k not in dit.ADDED_FIELDS}, path
    )
  again, loaded = convert.load_dit(tmp_path / 'out')
  assert again == config
  for path, value in flat(params).items():
    np.testing.assert_array_equal(flat(loaded)[path], value)
  if mixer != 'none':
    message = f"mixer is 'other', but .* trained with '{mixer}'; use that"
    with pytest.raises(ValueError, match=message):
      convert.load_dit(tmp_path / 'out', mixer='other')
  ours = dataclasses.replace(config, mixer='full', mixer_preset='matched')
  weights = init_from.InitFrom('there', lambda s: None, config, is_stage=True)
  if mixer not in ('none', 'full'):
    with pytest.raises(
      ValueError, match=f"mixer = '{mixer}' there, 'full' in config.model"
    ):
      init_from.check(weights, ours, None)


def test_files_of_two_mixers(fixtures, tmp_path):
  shutil.copytree(fixtures / 'tiny_rope', tmp_path / 'model')
  for name in ('ttt', 'mamba2'):
    (tmp_path / f'model/{name}.json').write_text('{}')
  with pytest.raises(ValueError, match='2 mixers, ttt and mamba2; keep the'):
    convert.load_dit(tmp_path / 'model')
  (tmp_path / 'model/ttt.json').unlink()
  with pytest.raises(ValueError, match='must have exactly mixer, mixer_preset'):
    convert.load_dit(tmp_path / 'model')
  shutil.rmtree(tmp_path / 'model')
  with pytest.raises(ValueError, match="'ttt'; expected one of none, ttt_mlp"):
    convert.load_dit(fixtures / 'tiny_rope', mixer='ttt')


def test_types_on_loading_and_saving(fixtures, tmp_path):
  source = fixtures / 'tiny_sincos'
  config, params = convert.load_dit(
    source, dtype=jnp.bfloat16, mixer='ttt_linear'
  )
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('bfloat16')}
  convert.save_dit(config, params, tmp_path, dtype=np.float16)
  assert {x.dtype for x in read(tmp_path).values()} == {np.dtype(np.float16)}


def test_the_transformer_of_a_complete_model(fixtures, tmp_path):
  shutil.copytree(fixtures / 'tiny_rope', tmp_path / 'transformer')
  config, _ = convert.load_dit(tmp_path)
  assert config == convert.load_dit(fixtures / 'tiny_rope')[0]
  with pytest.raises(FileNotFoundError, match='no config.json in'):
    convert.load_dit(tmp_path / 'nothing')


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(patch_size_t=2), 'CogVideoX 1.5 .*not supported yet; CogVideoX-2B'),
    (dict(in_channels=8), 'image-to-video .*not supported yet; CogVideoX-2B'),
    (dict(use_learned_positional_embeddings=True), 'image-to-video'),
    (dict(_class_name='WanTransformer3DModel'), 'describes a .?WanTransformer'),
    (dict(ofs_embed_dim=512), 'ofs_embed_dim = 512: only None'),
    (dict(activation_fn='gelu'), "activation_fn = 'gelu': only 'gelu-app"),
    (dict(attention_head_dim=40), 'multiple of 16'),
    (dict(num_layers='2'), 'num_layers is "2"; expected a whole number'),
    (dict(sample_frames=50), 'sample_frames is 50; .*for example 49'),
  ],
)
def test_models_that_are_refused(change, message, fixtures, tmp_path):
  shutil.copytree(fixtures / 'tiny_rope', tmp_path / 'model')
  path = tmp_path / 'model/config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match=message) as e:
    convert.load_dit(tmp_path / 'model')
  assert '\n' not in str(e.value) and str(path) in str(e.value)


def test_a_config_that_contradicts_the_weights(fixtures, tmp_path):
  shutil.copytree(fixtures / 'tiny_rope', tmp_path / 'model')
  path = tmp_path / 'model/config.json'
  other = dict(num_layers=3, text_embed_dim=7)
  path.write_text(json.dumps(json.loads(path.read_text()) | other))
  with pytest.raises(ValueError) as e:
    convert.load_dit(tmp_path / 'model')
  assert 'text/kernel has shape (6, 32), the config requires (7, 32)' in str(
    e.value
  )
  assert 'layers/mlp/down/bias has 2 layers, the config requires 3' in str(
    e.value
  )
  assert '25 problem(s)' in str(e.value)
  assert len(str(e.value).splitlines()) == 12


def test_values_that_diffusers_has_no_field_for(fixtures, tmp_path):
  config, params = convert.load_dit(fixtures / 'tiny_rope')
  config = dataclasses.replace(config, rope_theta=100.0)
  with pytest.raises(ValueError, match='rope_theta is 100.0'):
    convert.save_dit(config, params, tmp_path)


def test_existing_weights_are_not_replaced(fixtures, tmp_path):
  config, params = convert.load_dit(fixtures / 'tiny_rope')
  convert.save_dit(config, params, tmp_path)
  with pytest.raises(FileExistsError, match='exists and is not replaced'):
    convert.save_dit(config, params, tmp_path)
