"""A pipeline from a complete CogVideoX folder, without training."""

import json
import shutil
import typing

import jax
import numpy as np
import pytest

from tests.helpers import tiny_cogvideox
from ttt_jax import convert
from ttt_jax import pipeline
from ttt_jax import recipes
from ttt_jax import storyboard
from ttt_jax.diffusion import guidance
from ttt_jax.pipeline import pretrained
from ttt_jax.pipeline.sampling import Sampling


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('model') / 'CogVideoX'
  tiny_cogvideox.write_model(folder)
  return folder


def test_the_folder_defines_all_sizes(folder):
  pipe = pipeline.VideoPipeline.load(folder)
  assert (pipe.height, pipe.width, pipe.fps) == (32, 48, 8)
  assert pipe.scheduler == 'cogvideox_dpm'
  assert pipe.config.dtype == 'float32' and pipe.config.mixer == 'none'
  assert pipe.text_encoder.text_length == 226
  assert isinstance(jax.tree.leaves(pipe.params)[0], jax.Array)
  board = storyboard.Storyboard.parse(['A red square.'])
  assert pipe.geometry(board).latent_frames == 13


def test_half_precision_is_kept_and_computes_in_bfloat16(folder, tmp_path):
  half = tmp_path / 'half'
  shutil.copytree(folder, half, ignore=shutil.ignore_patterns('transformer'))
  config, params = convert.load_dit(folder)
  convert.save_dit(config, params, half / 'transformer', dtype='bfloat16')
  arguments = pretrained.pipeline_arguments(half)
  assert arguments['config'].dtype == 'bfloat16'
  assert {x.dtype.name for x in jax.tree.leaves(arguments['params'])} == {
    'bfloat16'
  }
  assert arguments['text_encoder'].identity.startswith('t5-bfloat16:')


def test_the_scheduler_tells_what_the_transformer_predicts(folder, tmp_path):
  model = tmp_path / 'model'
  shutil.copytree(folder, model)
  scheduler = model / 'scheduler/scheduler_config.json'
  found = json.loads(scheduler.read_text())

  def latents():
    pipe = pipeline.VideoPipeline.load(model)
    board = storyboard.Storyboard.parse(['A red square.'])
    return pipe.config.prediction, pipe.sample_latents(
      board, steps=1, guidance=1.0, guidance_schedule='constant'
    )

  prediction, of_velocity = latents()
  assert prediction == 'v_prediction'
  scheduler.write_text(json.dumps(found | {'prediction_type': 'sample'}))
  prediction, of_sample = latents()
  assert prediction == 'sample'
  assert recipes.cogvideox(str(model), '3s').model.prediction == 'sample'
  # So does the folder of the transformer, without a scheduler beside it.
  config, params = convert.load_dit(model)
  convert.save_dit(config, params, tmp_path / 'alone')
  assert convert.load_dit(tmp_path / 'alone')[0].prediction == 'sample'
  # One step begins at pure noise, where v = -x0 is the network's output.
  np.testing.assert_allclose(of_sample, -of_velocity, atol=1e-5)


def test_the_index_may_have_a_frame_rate(folder, tmp_path):
  model = tmp_path / 'model'
  shutil.copytree(folder, model)
  index = model / 'model_index.json'
  found = json.loads(index.read_text()) if index.exists() else {}
  index.write_text(json.dumps(found | {'_fps': 16}))
  assert pretrained.pipeline_arguments(model)['fps'] == 16
  index.write_text(json.dumps(found | {'_fps': 'fast'}))
  with pytest.raises(ValueError, match='_fps'):
    pretrained.pipeline_arguments(model)


def test_the_index_may_have_settings_of_sampling(folder, tmp_path):
  model = tmp_path / 'model'
  shutil.copytree(folder, model)
  index = model / 'model_index.json'
  found = json.loads(index.read_text()) if index.exists() else {}
  settings = dict(steps=2, guidance=1.0, guidance_schedule='constant')
  index.write_text(json.dumps(found | {'_sampling': settings}))
  pipe = pipeline.VideoPipeline.load(model)
  story = storyboard.as_storyboard('a dog')
  by_default = pipe.sample_latents(story)
  np.testing.assert_array_equal(
    by_default, pipe.sample_latents(story, **settings)
  )
  # A call may have others.
  guided = pipe.sample_latents(story, guidance=5.0)
  assert np.abs(guided - by_default).max() > 1e-3
  assert len(pipe('a dog', steps=1, progress=False)) == pipe.segment_frames + 1
  for wrong, message in (
    (dict(steps=0), 'steps'),
    (dict(guidance_schedule='cosin'), 'cosin.*; expected one of constant'),
    (dict(strength=1.0), 'strength'),
  ):
    index.write_text(json.dumps(found | {'_sampling': wrong}))
    with pytest.raises(ValueError, match=message) as error:
      pretrained.pipeline_arguments(model)
    assert '\n' not in str(error.value)
    assert 'model_index.json' in str(error.value)


def test_a_model_may_have_any_schedule_of_the_guidance():
  kind = typing.get_type_hints(Sampling)['guidance_schedule']
  assert {*typing.get_args(kind)} == {*guidance.SCHEDULES}


def test_float16_computes_in_float32_on_a_cpu(folder, tmp_path):
  half = tmp_path / 'half'
  shutil.copytree(folder, half, ignore=shutil.ignore_patterns('transformer'))
  config, params = convert.load_dit(folder)
  convert.save_dit(config, params, half / 'transformer', dtype='float16')
  assert pretrained.pipeline_arguments(half)['config'].dtype == 'float32'


@pytest.mark.parametrize(
  'missing', ['scheduler', 'vae', 'text_encoder', 'tokenizer']
)
def test_a_missing_part_is_named(folder, tmp_path, missing):
  part = tmp_path / 'part'
  shutil.copytree(folder, part, ignore=shutil.ignore_patterns(missing))
  with pytest.raises(FileNotFoundError, match=missing) as e:
    pipeline.VideoPipeline.load(part)
  assert '\n' not in str(e.value)


def test_a_training_run_is_not_a_pretrained_model(tmp_path):
  assert not pretrained.is_pretrained(tmp_path)
  with pytest.raises(FileNotFoundError, match='checkpoint'):
    pipeline.VideoPipeline.load(tmp_path)
