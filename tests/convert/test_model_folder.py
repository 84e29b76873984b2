"""Folders as libraries write them, and paths that are something else."""

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tests.helpers import commands
from ttt_jax import convert
from ttt_jax import recipes
from ttt_jax.convert import model_folder
from ttt_jax.convert import stable_diffusion
from ttt_jax.encoders import video_encoder

NAME = 'diffusion_pytorch_model'
LFS = 'version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 3\n'
LORA = {'unet.a.lora_A.weight': np.ones((2, 2), np.float32)}


@pytest.fixture(name='sd')
def _sd(fixtures, tmp_path):
  return shutil.copytree(fixtures / 'tiny_sd', tmp_path / 'sd')


@pytest.fixture(name='t5')
def _t5(fixtures, tmp_path):
  return shutil.copytree(fixtures / 'tiny_t5/text_encoder', tmp_path / 't5')


def change(path, **fields):
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rewrite(path, function):
  """Replaces the tensors of a file by those that `function` returns."""
  tensors = function(safetensors_numpy.load_file(path))
  safetensors_numpy.save_file(
    {key: np.ascontiguousarray(x) for key, x in tensors.items()}, path
  )


def split(folder, variant='', index=''):
  """Splits the weights in two files with an index; returns its weight_map."""
  path = folder / f'{NAME}.safetensors'
  tensors, places = safetensors_numpy.load_file(path), {}
  for i in (1, 2):
    file = f'{NAME}{variant}-0000{i}-of-00002.safetensors'
    part = sorted(tensors)[i - 1 :: 2]
    safetensors_numpy.save_file({k: tensors[k] for k in part}, folder / file)
    places |= dict.fromkeys(part, file)
  path.unlink()
  name = index or f'{NAME}.safetensors.index.json'
  (folder / name).write_text(json.dumps(dict(weight_map=places)))
  return places


def load_unet(folder):
  return convert.load_unet(folder, temporal=False)[1]


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


# Weights in all spellings.


@pytest.mark.parametrize(
  'variant, index',
  [
    ('', ''),
    ('.fp16', f'{NAME}.safetensors.index.fp16.json'),
    ('.fp16', f'{NAME}.fp16.safetensors.index.json'),
  ],
)
def test_shards_and_both_spellings_of_an_index(sd, variant, index):
  want = load_unet(sd)
  split(sd / 'unet', variant, index)
  equal(load_unet(sd), want)


def test_a_variant_alone_next_to_another_and_next_to_the_file(sd, caplog):
  want = load_unet(sd)
  folder = sd / 'unet'
  path = folder / f'{NAME}.safetensors'
  fp16 = path.rename(folder / f'{NAME}.fp16.safetensors')
  equal(load_unet(sd), want)
  shutil.copy(fp16, folder / f'{NAME}.bf16.safetensors')
  with pytest.raises(ValueError, match='several variants: bf16, fp16; keep'):
    load_unet(sd)
  shutil.copy(fp16, path)
  rewrite(fp16, lambda tensors: {'other': np.ones(2)})
  (folder / f'{NAME}.bin').write_bytes(b'PK')
  equal(load_unet(sd), want)
  assert f'{NAME}.safetensors is read;' in caplog.text


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'model.module.'])
def test_names_of_wrappers(sd, t5, prefix):
  for load, folder, path in (
    (load_unet, sd, sd / f'unet/{NAME}.safetensors'),
    (lambda f: convert.load_t5(f)[1], t5, t5 / 'model.safetensors'),
  ):
    want = load(folder)
    rewrite(path, lambda x: {prefix + key: x[key] for key in x})
    equal(load(folder), want)


def test_a_compiled_block(sd):
  want = load_unet(sd)
  rewrite(
    sd / f'unet/{NAME}.safetensors',
    lambda x: {
      k.replace('mid_block.', 'mid_block._orig_mod.'): x[k] for k in x
    },
  )
  equal(load_unet(sd), want)


def test_types_that_are_mixed(fixtures, tmp_path):
  folder = shutil.copytree(fixtures / 'tiny_rope', tmp_path / 'model')
  kinds = (ml_dtypes.bfloat16, np.float16, np.float32)
  rewrite(
    folder / f'{NAME}.safetensors',
    lambda x: {k: x[k].astype(kinds[i % 3]) for i, k in enumerate(sorted(x))},
  )
  _, params = convert.load_dit(folder)
  assert {x.dtype.name for x in jax.tree.leaves(params)} >= {'float32'}


# Weights that contradict each other.


def test_both_names_of_an_embedding(t5):
  path, want = t5 / 'model.safetensors', convert.load_t5(t5)[1]
  other = 'encoder.embed_tokens.weight'
  rewrite(path, lambda x: x | {other: x['shared.weight']})
  equal(convert.load_t5(t5)[1], want)
  rewrite(path, lambda x: x | {other: x['shared.weight'] + 1})
  with pytest.raises(ValueError, match='weight and .*weight are one parameter'):
    convert.load_t5(t5)
  rewrite(path, lambda x: {k: x[k] for k in x if k != 'shared.weight'})
  assert np.any(convert.load_t5(t5)[1]['tokens']['embedding'] != want)


@pytest.mark.parametrize('shift', [0, 1])
def test_two_spellings_of_a_name(sd, shift):
  path = sd / f'unet/{NAME}.safetensors'
  more = lambda x: {'module.conv_in.bias': x['conv_in.bias'] + shift}
  rewrite(path, lambda x: x | more(x))
  if not shift:
    load_unet(sd)
    return
  with pytest.raises(ValueError, match='conv_in.bias are one parameter, but'):
    load_unet(sd)


def test_a_file_and_an_index(sd):
  path, want = sd / f'unet/{NAME}.safetensors', load_unet(sd)
  copy = shutil.copy(path, sd / 'copy')
  split(sd / 'unet')
  shutil.copy(copy, path)
  equal(load_unet(sd), want)
  rewrite(path, lambda x: x | {'conv_in.bias': x['conv_in.bias'] + 1})
  with pytest.raises(ValueError, match='different weights.*conv_in.bias; keep'):
    load_unet(sd)


def test_a_tensor_in_two_shards(sd):
  places = split(sd / 'unet')
  first, second = sorted(set(places.values()))
  key = min(k for k in places if places[k] == first)
  rewrite(sd / 'unet' / second, lambda x: x | {key: np.ones(2, np.float16)})
  with pytest.raises(ValueError, match=f'{key} in {second} is in {first}, too'):
    load_unet(sd)


# Sizes that are absurd, and tensors that do not fit.


@pytest.mark.parametrize(
  'part, fields',
  [
    ('unet', dict(layers_per_block=900)),
    ('vae', dict(layers_per_block=10**9)),
    ('vae', dict(scaling_factor='8')),
    ('vae', dict(block_out_channels=[2] * 500)),
    ('unet', dict(down_block_types=3)),
    ('unet', dict(norm_eps=float('nan'))),
    ('text_encoder', dict(num_attention_heads=0)),
    ('text_encoder', dict(vocab_size=10**9)),
    ('text_encoder', dict(architectures=3)),
  ],
)
def test_absurd_configs_are_refused_without_tracing(sd, part, fields):
  change(sd / part / 'config.json', **fields)
  loads = dict(
    unet=load_unet, vae=convert.load_kl_vae, text_encoder=convert.load_clip
  )
  with pytest.raises(ValueError, match=f'{part}/'):
    loads[part](sd)


def test_sixty_tensors_are_ten_lines(fixtures, tmp_path):
  folder = shutil.copytree(fixtures / 'tiny_rope', tmp_path / 'model')
  path = folder / f'{NAME}.safetensors'
  rewrite(path, lambda x: {f'net.video.{key}': x[key] for key in x})
  with pytest.raises(ValueError, match="names begin with 'net.video.'") as e:
    convert.load_dit(folder)
  lines = str(e.value).splitlines()
  assert len(lines) == 12 and 'more' in lines[-1]
  assert max(map(len, lines)) < 300


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_weights_that_are_not_numbers(sd, value):
  path = sd / f'unet/{NAME}.safetensors'
  rewrite(path, lambda x: x | {'conv_in.bias': x['conv_in.bias'] * 0 + value})
  with pytest.raises(
    ValueError, match='conv_in.bias in .* contains NaN or inf'
  ):
    load_unet(sd)


# What else a path can be.


def cache(folder, sd):
  """Makes a folder as the cache of huggingface_hub has it."""
  root = folder / 'hub/models--org--name'
  for name in ('refs', 'blobs', 'snapshots'):
    (root / name).mkdir(parents=True)
  (root / 'refs/main').write_text('abc')
  shutil.move(sd, root / 'snapshots/abc')
  return root


@pytest.mark.parametrize('level', ['', 'snapshots', 'refs', 'blobs', '..'])
def test_levels_of_a_cache(sd, tmp_path, level):
  root = cache(tmp_path, sd)
  with pytest.raises(ValueError, match='Hugging Face.*models--.*/abc'):
    recipes.stable_diffusion_sizes((root / level).resolve())
  recipes.stable_diffusion_sizes(root / 'snapshots/abc')
  weights = root / f'snapshots/abc/unet/{NAME}.safetensors'
  weights.unlink()
  (root / 'blobs/1.incomplete').touch()
  with pytest.raises(FileNotFoundError, match='download is not complete'):
    load_unet(root / 'snapshots/abc')
  weights.symlink_to('../../../blobs/1')
  with pytest.raises(FileNotFoundError, match='is a link to .*blobs/1, which'):
    load_unet(root / 'snapshots/abc')


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('pytorch_lora_weights.safetensors', LORA, 'LoRA.*fuse_lora'),
    ('adapter_model.safetensors', LORA, 'LoRA.*fuse_lora'),
    ('v1.safetensors', {'x': np.ones(2)}, 'in one file.*from_single_file'),
    ('v1.safetensors', LORA, 'LoRA'),
    ('v1.ckpt', b'PK\x03\x04', 'pickled.*not opened.*save_pretrained'),
    ('v1.gguf', b'GGUF', 'GGUF.*safetensors'),
    ('v1.safetensors', LFS.encode(), 'git lfs pull'),
    ('v1.safetensors', b'PK\x03\x04', 'pickled'),
    ('diffusion_pytorch_model.safetensors', LORA, 'no config.json: copy it'),
  ],
)
def test_files_that_are_not_a_model(tmp_path, name, content, message):
  path = tmp_path / name
  if isinstance(content, dict):
    safetensors_numpy.save_file(content, path)
  else:
    path.write_bytes(content)
  for wrong in [tmp_path] if 'copy' in message else [tmp_path, path]:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as e:
      recipes.stable_diffusion_sizes(wrong)
    assert '\n' not in str(e.value)


def test_other_levels_and_hub_ids(sd, tmp_path):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'dead').symlink_to('gone')
  for wrong, message in (
    (tmp_path, 'one level below: name .*/sd'),
    (sd / 'tokenizer', 'a part of the model in .*/sd'),
    (sd / 'unet/config.json', 'a file of a model: name its folder'),
    (tmp_path / 'empty', 'the folder is empty'),
    (tmp_path / 'dead', 'is a link to gone, which does not exist'),
    ('org/name', 'hf download org/name --local-dir name'),
    ('https://huggingface.co/org/name', 'hf download org/name'),
  ):
    with pytest.raises(ValueError, match=message):
      recipes.stable_diffusion_sizes(wrong)


@pytest.mark.parametrize(
  'channels, message',
  [(9, 'inpainting'), (5, 'depth'), (8, 'InstructPix2Pix'), (6, 'condition')],
)
def test_a_unet_that_sees_more_than_noise(sd, channels, message):
  change(sd / 'unet/config.json', in_channels=channels)
  with pytest.raises(ValueError, match=f'{message}.*takes {channels} channels'):
    recipes.stable_diffusion_sizes(sd)


def test_the_channels_are_noticed_before_the_clip_is_read(sd, tmp_path):
  change(sd / 'unet/config.json', in_channels=9)
  out = commands.run(
    'ttt_jax.train',
    '--config=configs/tune_a_video.py',
    f'--config.init_from={sd}',
    f'--config.vae.folder={sd}/vae',
    f'--config.text.folder={sd}/text_encoder',
    f'--config.video={tmp_path}/no.mp4',
    '--config.prompt=a ball',
    f'--workdir={tmp_path}/run',
  )
  assert out.returncode == 2, out.stderr
  assert 'inpainting model' in out.stderr and 'no.mp4' not in out.stderr


@pytest.mark.parametrize(
  'part, fields',
  [
    ('text_encoder', dict(hidden_size=10, num_attention_heads=1)),
    ('vae', dict(latent_channels=8)),
  ],
)
def test_parts_of_different_models(sd, part, fields):
  change(sd / part / 'config.json', **fields)
  with pytest.raises(ValueError, match='they belong to different models'):
    recipes.stable_diffusion_sizes(sd)


@pytest.mark.parametrize(
  'name, title',
  [
    ('FluxPipeline', 'Flux'),
    ('WanImageToVideoPipeline', 'Wan'),
    ('HunyuanVideoPipeline', 'HunyuanVideo'),
    ('CogVideoXImageToVideoPipeline', 'CogVideoX, image to video'),
  ],
)
def test_pipelines_of_other_models(sd, name, title):
  change(sd / 'model_index.json', _class_name=name)
  with pytest.raises(ValueError, match=f'is {title} .{name}.: Stable Diff'):
    recipes.stable_diffusion_sizes(sd)


@pytest.mark.parametrize(
  'place', ['../x', '/etc/x', 'a\\b', 'a\0', 'a\nb', 'x' * 300]
)
def test_an_index_does_not_leave_its_folder(sd, place):
  split(sd / 'unet')
  path = sd / f'unet/{NAME}.safetensors.index.json'
  change(path, weight_map={'a': f'{place}.safetensors'})
  with pytest.raises(ValueError, match='not the name of a safetensors file'):
    load_unet(sd)


@pytest.mark.parametrize(
  'name', ['DPMSolverMultistep', 'EulerDiscrete', 'UniPCMultistep', 'PNDM']
)
@pytest.mark.parametrize('spacing', ['trailing', 'linspace'])
def test_any_saved_sampler_of_stable_diffusion(sd, name, spacing):
  want = stable_diffusion.load_schedule(sd)
  change(
    sd / 'scheduler/scheduler_config.json',
    _class_name=f'{name}Scheduler',
    timestep_spacing=spacing,
    lambda_min_clipped=-float('inf'),  # As diffusers writes it.
  )
  assert stable_diffusion.load_schedule(sd) == want


@pytest.mark.parametrize(
  'name, title',
  [
    ('AutoencoderKLWan', 'Wan'),
    ('AutoencoderKLTemporalDecoder', 'Stable Video Diffusion'),
    ('AutoencoderTiny', 'a small autoencoder for previews'),
  ],
)
def test_autoencoders_of_other_models(sd, name, title):
  change(sd / 'vae/config.json', _class_name=name)
  with pytest.raises(ValueError, match=f'{name}.: only .* this is {title}'):
    video_encoder.load_video_encoder(sd)
  with pytest.raises(FileNotFoundError, match='has no vae: .*hf download'):
    video_encoder.load_video_encoder('org/name')


def test_an_unknown_path_is_not_explained(tmp_path):
  (tmp_path / 'notes.txt').write_text('x')
  assert model_folder.describe(tmp_path) == ''
