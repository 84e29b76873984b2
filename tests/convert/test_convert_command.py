"""python -m ttt_jax.convert, and the folders that it creates."""

import json
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tests.helpers import commands
from ttt_jax import backbones
from ttt_jax import convert
from ttt_jax.convert import native
from ttt_jax.convert import registry

ROOT = pathlib.Path(__file__).resolve().parents[2]
WEIGHTS = 'diffusion_pytorch_model.safetensors'


def command(**options):
  return commands.run(
    'ttt_jax.convert',
    *(f'--{name}={value}' for name, value in options.items()),
  )


@pytest.mark.slow
def test_there_and_back_with_ttt_layers(fixtures, tmp_path):
  source, ours, back = fixtures / 'tiny_rope', tmp_path / 'a', tmp_path / 'b'
  out = command(source=source, out=ours, mixer='ttt_mlp', mini_batch=8, seed=5)
  assert out.returncode == 0, out.stderr
  assert 'layers/seq/ttt' in out.stdout and '52,388' in out.stdout
  found = native.read(ours)
  config, params = convert.load_dit(
    source, mixer='ttt_mlp', mini_batch=8, seed=5
  )
  assert registry.native_config(found) == config
  jax.tree.map(np.testing.assert_array_equal, found.params(), params)
  out = command(source=ours, out=back)
  assert out.returncode == 0, out.stderr
  assert {path.name for path in back.iterdir()} == {
    'config.json',
    WEIGHTS,
    'ttt.json',
    'ttt.safetensors',
  }
  assert (back / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()
  assert not list(tmp_path.glob('*.tmp'))


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(source='nowhere'), 'a training run: nowhere does not exist'),
    (dict(source=str(ROOT / 'docs')), 'no config.json in'),
    (dict(source=str(ROOT / 'docs'), out='docs/new'), 'is inside --source'),
    (dict(shard_gb=0), 'flag --shard_gb=0: expected a number > 0'),
    (dict(dtype='int8'), '--dtype=int8'),
  ],
)
def test_errors_in_one_line(options, message, fixtures, tmp_path):
  defaults = dict(source=fixtures / 'tiny_rope', out=tmp_path / 'new')
  out = command(**defaults | options)
  assert out.returncode == 2
  assert out.stderr.startswith('error: ') or '--dtype' in out.stderr
  assert message in out.stderr
  assert not list(tmp_path.iterdir())


def test_existing_folders_are_not_replaced(fixtures, tmp_path):
  (tmp_path / 'mine').write_text('x')
  out = command(source=fixtures / 'tiny_rope', out=tmp_path)
  assert out.returncode == 2 and 'exists and is not replaced' in out.stderr
  assert [path.name for path in tmp_path.iterdir()] == ['mine']


def convert_folder(out, source):
  config, params = convert.load_dit(source)
  native.write(out, 'transformer', vars(config), params)
  return params


def test_a_native_checkpoint_onto_devices_in_another_type(fixtures, tmp_path):
  params = convert_folder(tmp_path / 'a', fixtures / 'tiny_rope')
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ('data',))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  saved = native.read(tmp_path / 'a')
  found = saved.params(jnp.float32, lambda like: sharding)
  for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(params)):
    assert ours.dtype == jnp.float32 and ours.sharding == sharding
    np.testing.assert_array_equal(ours, theirs.astype(np.float32))


def test_a_failure_leaves_nothing(fixtures, tmp_path):
  class Broken:
    shape, dtype = (2,), np.dtype(np.float32)

    def __array__(self, dtype=None, copy=None):
      raise ValueError('gone')

  with pytest.raises(ValueError, match='gone'):
    native.write(tmp_path / 'a', 'transformer', {}, dict(a=Broken()))
  assert not list(tmp_path.iterdir())


def test_temporary_folders_of_others_are_left_alone(tmp_path):
  others = [tmp_path / name for name in ('a.tmp', '.a.tmp', '.a.0.tmp')]
  for folder in others:
    folder.mkdir()
    (folder / 'mine').write_text('x')
  native.write(tmp_path / 'a', 'transformer', {}, dict(a=np.ones(2)))
  with pytest.raises(FileExistsError, match='exists and is not replaced'):
    native.write(tmp_path / 'a', 'transformer', {}, dict(a=np.ones(2)))
  assert {path.name for path in tmp_path.iterdir()} == {
    'a',
    *(folder.name for folder in others),
  }
  assert all((folder / 'mine').read_text() == 'x' for folder in others)


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(format=7), 'is not of format 1; convert the model again'),
    (dict(model='gan'), "'gan' is not a known model; expected one of"),
    (dict(config=dict(depth=3)), 'another version'),
  ],
)
def test_native_checkpoints_of_another_version(
  change, message, fixtures, tmp_path
):
  convert_folder(tmp_path / 'a', fixtures / 'tiny_sincos')
  path = tmp_path / 'a/config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match=message):
    registry.native_config(native.read(tmp_path / 'a'))


def test_a_damaged_native_checkpoint(fixtures, tmp_path):
  convert_folder(tmp_path / 'a', fixtures / 'tiny_sincos')
  (tmp_path / 'a/params/state/_METADATA').unlink()
  with pytest.raises(ValueError, match='cannot be read .*convert the model'):
    native.read(tmp_path / 'a')
  with pytest.raises(FileNotFoundError, match='contains no converted model'):
    native.read(tmp_path)


def test_unknown_models(tmp_path):
  (tmp_path / 'config.json').write_text('{"architectures": ["BertModel"]}')
  with pytest.raises(
    ValueError, match='BertModel.*expected one of CogVideoXTrans'
  ):
    registry.detect_format(tmp_path)


def test_the_parts_of_a_complete_model(tmp_path):
  for name in ('vae', 'transformer', 'scheduler', 'unet'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'config.json').write_text('{}')
  parts = registry.find_parts(tmp_path)
  assert parts == {n: tmp_path / n for n in ('transformer', 'vae', 'unet')}


def test_the_parts_of_stable_diffusion_there_and_back(fixtures, tmp_path):
  source, ours, back = fixtures / 'tiny_sd', tmp_path / 'a', tmp_path / 'b'
  (tmp_path / 'a.tmp').mkdir()
  (tmp_path / 'a.tmp/mine').write_text('x')
  out = command(source=source, out=ours)
  assert out.returncode == 0, out.stderr
  assert (tmp_path / 'a.tmp/mine').read_text() == 'x'
  assert {path.name for path in tmp_path.iterdir()} == {'a', 'a.tmp'}
  names = {'unet': 'unet', 'vae': 'kl_vae', 'text_encoder': 'clip'}
  for part, kind in names.items():
    found = native.read(ours / part)
    assert found.model == kind
    assert (
      registry.format_for_config(registry.native_config(found)).name == kind
    )
  out = command(source=ours, out=back)
  assert out.returncode == 0, out.stderr
  for part in names:
    (path,) = (source / part).glob('*.safetensors')
    want, got = (
      safetensors_numpy.load_file(folder / part / path.name)
      for folder in (source, back)
    )
    # Newer files name CLIP's tensors without the prefix.
    want, got = (
      {k.removeprefix('text_model.'): v for k, v in x.items()}
      for x in (want, got)
    )
    assert want.keys() == got.keys()
    for key, value in want.items():
      assert value.dtype == got[key].dtype
      np.testing.assert_array_equal(value, got[key])
  # The prediction was in `scheduler`, and no temporal attention was added.
  config, _ = convert.load_unet(back / 'unet', temporal=False)
  assert config.prediction == 'v_prediction'
  assert not convert.unet.has_temporal(back / 'unet')


def test_a_tuned_model_becomes_a_folder_for_diffusers(
  fixtures, tmp_path, monkeypatch
):
  model, params = convert.load_unet(fixtures / 'tiny_sd')
  # As in a checkpoint: JSON, which has no tuples.
  run = ml_collections.ConfigDict(
    dict(
      backbone='unet3d',
      model=json.loads(json.dumps(vars(model))),
    )
  )
  monkeypatch.setattr(
    registry.checkpoint,
    'load_network',
    lambda folder, ema: (backbones.from_config(run), params, run),
  )
  config, loaded = registry.load_run(tmp_path, ema=True)
  assert config == model
  registry.format_for_config(config).save(
    config=config,
    params=loaded,
    folder=tmp_path / 'out',
    dtype=None,
    shard_bytes=10**9,
  )
  again, back = registry.FORMATS['unet'].load(tmp_path / 'out', dtype=None)
  assert again == model
  jax.tree.map(np.testing.assert_array_equal, back, params)
