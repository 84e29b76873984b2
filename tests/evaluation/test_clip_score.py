"""CLIP's two towers against transformers' numbers, and the metrics."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import commands
from tests.helpers import compare
from ttt_jax import convert
from ttt_jax.encoders import clip_pixels
from ttt_jax.evaluation import clip_score
from ttt_jax.models import clip
from ttt_jax.video import video_file


@pytest.fixture(name='tiny', scope='module')
def _tiny(fixtures):
  return fixtures / 'tiny_clip'


@pytest.fixture(name='copy')
def _copy(tiny, tmp_path):
  return shutil.copytree(tiny, tmp_path / 'clip')


@pytest.fixture(name='numbers', scope='module')
def _numbers(tiny):
  with np.load(tiny / 'numbers.npz') as found:
    return dict(found)


@pytest.fixture(name='score', scope='module')
def _score(tiny):
  return clip_score.CLIPScore.load(tiny)


def change(path, **fields):
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_pixels_equal_those_of_transformers(tiny, numbers):
  read = clip_pixels.ClipPixels.load(tiny)
  found = read(numbers['frames'])
  assert found.dtype == np.float32
  want = numbers['pixels'].transpose(0, 2, 3, 1)
  np.testing.assert_allclose(found, want, atol=1e-6)
  # Upright pictures.
  found = read(numbers['frames'].swapaxes(1, 2))
  np.testing.assert_allclose(found, want.swapaxes(1, 2), atol=0.02)


def test_pixels_of_a_processor(copy):
  """The file of transformers 5."""
  path = copy / clip_pixels.CONFIG
  want = clip_pixels.ClipPixels.load(copy)
  content = dict(image_processor=json.loads(path.read_text()))
  (copy / 'processor_config.json').write_text(json.dumps(content))
  path.unlink()
  assert clip_pixels.ClipPixels.load(copy) == want
  (copy / 'processor_config.json').write_text('{}')
  with pytest.raises(ValueError, match='image_processor in .* is null; exp'):
    clip_pixels.ClipPixels.load(copy)


@pytest.mark.optimized
def test_vectors_equal_those_of_transformers(score, numbers):
  assert (
    compare.relative_error(score.embed(numbers['frames']), numbers['images'])
    < 1e-5
  )
  found = [score.embed_text(str(text)) for text in numbers['texts']]
  assert compare.relative_error(np.stack(found), numbers['text_vectors']) < 1e-5
  # More frames than a batch.
  many = np.repeat(numbers['frames'], 3, axis=0)
  want = np.repeat(numbers['images'], 3, axis=0)
  assert compare.relative_error(score.embed(many), want) < 1e-5


def test_metrics(score, numbers):
  a, b, c = np.float64(numbers['images'])
  consistency = score.frame_consistency(numbers['frames'])
  np.testing.assert_allclose(
    consistency, 100 * (a @ b + a @ c + b @ c) / 3, rtol=1e-5
  )
  neighbours = score.frame_consistency(numbers['frames'], 'consecutive')
  np.testing.assert_allclose(neighbours, 100 * (a @ b + b @ c) / 2, rtol=1e-5)
  still = np.repeat(numbers['frames'][:1], 4, axis=0)
  np.testing.assert_allclose(score.frame_consistency(still), 100, rtol=1e-5)
  text = numbers['text_vectors'][0]
  np.testing.assert_allclose(
    score.text_alignment(numbers['frames'], str(numbers['texts'][0])),
    100 * (a + b + c) @ text / 3,
    rtol=1e-4,
  )


def test_invalid_frames_and_options(score, numbers):
  frames = numbers['frames']
  for call, message in (
    (lambda: score.frame_consistency(frames[:1]), '1 frame cannot'),
    (
      lambda: score.frame_consistency(frames, 'some'),
      'expected one of all, con',
    ),
    (lambda: score.embed(frames / 255), r'float64 \[3, 20, 37, 3\]; they'),
    (lambda: score.text_alignment(frames, 'cat ' * 76), 'has 78 tokens'),
  ):
    with pytest.raises(ValueError, match=message):
      call()


def test_size_of_vit_l_14():
  config = clip.CLIPConfig(
    convert.clip_model.text_clip.CLIPTextConfig(),
    clip.CLIPVisionConfig(
      width=1024, num_layers=24, num_heads=16, mlp_dim=4096, patch_size=14
    ),
    projection_dim=768,
  )
  params = clip.abstract_params(config)
  # The count of transformers for openai/clip-vit-large-patch14, without the
  # scale of the logits in training.
  assert sum(x.size for x in jax.tree.leaves(params)) == 427_616_512
  with pytest.raises(ValueError, match='this CLIP requires'):
    jax.eval_shape(
      clip.CLIP(config).init,
      jax.random.key(0),
      jnp.zeros((1, 8, 8, 3)),
      jnp.zeros((1, 2), jnp.int32),
      jnp.zeros(1, jnp.int32),
    )


@pytest.mark.parametrize(
  'name, fields, message',
  [
    ('config.json', dict(model_type='clip_text_model'), 'both towers of'),
    ('config.json', dict(projection_dim=0), 'projection_dim is 0; expected'),
    (
      'config.json',
      dict(text_config=dict(hidden_size=8, hidden_act='x')),
      "text_config of .*'x'; expected one of quick_gelu",
    ),
    (
      'config.json',
      dict(vision_config=dict(patch_size=5)),
      'vision_config of .*not a multiple of its patch_size 5',
    ),
    (
      'config.json',
      dict(vision_config=dict(num_channels=1)),
      'num_channels = 1: only 3',
    ),
    ('config.json', dict(projection_dim=7), r'problem\(s\).*projection'),
    (clip_pixels.CONFIG, dict(do_resize=False), 'do_resize = False: only'),
    (
      clip_pixels.CONFIG,
      dict(crop_size=dict(height=8, width=9)),
      'is not supported: size must have',
    ),
    (clip_pixels.CONFIG, dict(crop_size=8), 'makes pictures of 8 pixels'),
  ],
)
def test_unsupported_models(copy, name, fields, message):
  change(copy / name, **fields)
  with pytest.raises(ValueError, match=message) as e:
    clip_score.CLIPScore.load(copy)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'name, message',
  [
    ('config.json', 'no config.json in'),
    ('model.safetensors', 'no weights at'),
    ('vocab.json', 'has no vocab.json: CLIP needs it'),
    (clip_pixels.CONFIG, 'which defines the preprocessing of pictures'),
  ],
)
def test_missing_files(copy, name, message):
  (copy / name).unlink()
  with pytest.raises(FileNotFoundError, match=message):
    clip_score.CLIPScore.load(copy)


def test_the_command(tiny, numbers, tmp_path, monkeypatch):
  monkeypatch.setenv('COLUMNS', '120')
  frames = np.pad(numbers['frames'][:, :16], ((0, 0),) * 2 + ((0, 11), (0, 0)))
  paths = [tmp_path / name for name in ('a.mp4', 'b.mp4')]
  for path, clip_frames in zip(paths, (frames, frames[::-1])):
    video_file.write_video(path, clip_frames, fps=8)

  def run(*arguments):
    return commands.run('ttt_jax.evaluate_edit', f'--clip={tiny}', *arguments)

  prompts = '--prompt=a red ball', '--prompt=the blue cat'
  out = run(*paths, *prompts, f'--out={tmp_path}/out.json')
  assert out.returncode == 0, out.stderr
  found = json.loads((tmp_path / 'out.json').read_text())
  first, second = found['edits']
  assert first['frames'] == second['frames'] == 3
  assert all(0 < edit['neighbours'] < 100 for edit in (first, second))
  assert first['text_alignment'] != second['text_alignment']
  mean = (first['text_alignment'] + second['text_alignment']) / 2
  assert abs(found['mean']['text_alignment'] - mean) < 1e-9
  for text in ('a.mp4', 'the blue cat', f'{mean:.2f}'):
    assert text in out.stdout
  # The spelling of earlier versions.
  videos = [f'--video={path}' for path in paths]
  assert run(*videos, *prompts, f'--json={tmp_path}/old.json').returncode == 0
  assert json.loads((tmp_path / 'old.json').read_text()) == found
  out = run(paths[0], '--prompt=a', '--prompt=b')
  assert out.returncode == 2
  assert out.stderr == (
    'error: the number of videos is 1, that of --prompt 2; give one of each for'
    ' every edit\n'
  )
