"""One-shot tuning and editing of a tiny Stable Diffusion, end to end."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest

from tests.helpers import configs
from tests.helpers import tiny_experiment
from ttt_jax import convert
from ttt_jax import pipeline
from ttt_jax.data import single_video
from ttt_jax.data.store import reader as dataset_reader
from ttt_jax.pipeline import edit as edit_lib
from ttt_jax.pipeline import training_samples
from ttt_jax.train import experiment as experiment_lib
from ttt_jax.train import loop
from ttt_jax.video import contact_sheet
from ttt_jax.video import video_file

tune_a_video = configs.load('tune_a_video')
tune_dit = configs.load('tune_dit')

SD = 'tests/fixtures/tiny_sd'
FRAMES, SIZE, STEPS = 3, 16, 2


def _config(clip, **changes):
  config = tune_a_video.get_config(SD)
  config.video, config.prompt = str(clip), 'a cat'
  config.data.update(frames=FRAMES, height=SIZE, width=SIZE, stride=2)
  config.model.remat = 'none'
  config.steps = config.checkpoint_every = config.sample_every = 2
  config.sample.steps = STEPS
  config.edits = ('a dog',)
  config.update(changes)
  return config


@pytest.fixture(name='clip', scope='module')
def clip_fixture(tmp_path_factory):
  path = tmp_path_factory.mktemp('video') / 'clip.mp4'
  frames = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3))
  video_file.write_video(path, frames.astype(np.uint8), fps=10)
  return path


@pytest.fixture(name='run', scope='module')
def run_fixture(clip, tmp_path_factory):
  """A finished tuning: config, workdir and last state."""
  workdir = tmp_path_factory.mktemp('run')
  config = _config(clip)
  single_video.prepare(config, workdir)
  experiment = experiment_lib.Experiment(config, workdir)
  state = loop.train(
    experiment, training_samples.make_sample_hook(experiment, workdir)
  )
  return config, workdir, state


@pytest.fixture(name='pipe', scope='module')
def pipe_fixture(run):
  return pipeline.EditPipeline.load(run[1])


def test_tuning_changes_only_queries_and_temporal_attention(run):
  _, _, state = run
  _, before = convert.load_unet(SD)
  before = jax.tree_util.tree_leaves_with_path(before)
  after = dict(jax.tree_util.tree_leaves_with_path(state.params))
  changed = set()
  for path, leaf in before:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if 'temp' not in name and not np.array_equal(leaf, after[path]):
      changed.add('/'.join(name.split('/')[-3:-1]))
  assert changed == {'attn1/to_q', 'attn2/to_q'}
  # Initially zero; the rest of temporal attention trains only through it.
  out = [
    leaf
    for path, leaf in after.items()
    if 'attn_temp' in str(path) and 'to_out' in str(path)
  ]
  assert out and all(np.any(np.asarray(leaf) != 0) for leaf in out)


def test_training_samples_as_editing_does(run, pipe):
  _, workdir, _ = run
  info = video_file.probe(workdir / 'tune/samples/000002.mp4')
  assert (info.frames, info.height, info.width) == (FRAMES, SIZE, 2 * SIZE)
  # Its inversion was saved, and is that of the pipeline.
  assert pipe.is_inverted(STEPS)
  (saved,) = (workdir / 'tune/inverted').iterdir()
  steps = []
  np.testing.assert_array_equal(
    np.load(saved), pipe.invert(STEPS, steps.append)
  )
  assert not steps and not pipe.is_inverted(STEPS + 1)


def test_prompts_are_independent_in_a_batch(pipe):
  prompts = ['a dog', 'a red car', 'a house']
  edit = lambda batch: pipe(prompts, steps=STEPS, guidance=3.0, batch=batch)
  alone = edit(1)
  assert alone.shape == (3, FRAMES, SIZE, SIZE, 3)
  assert alone.dtype == np.uint8
  assert type(alone[0]) is pipeline.Video and alone[0].fps == pipe.fps
  # A storyboard with the text of every segment of the clip.
  board = pipe(dict(segments=['a dog']), steps=STEPS, guidance=3.0)
  np.testing.assert_array_equal(board, alone[:1])
  assert not np.array_equal(alone[0], alone[2])
  # Two at once, with padding in the last batch.
  assert np.abs(edit(2).astype(int) - alone.astype(int)).max() <= 1


def test_without_inversion_the_seed_decides(pipe):
  sample = lambda seed, inversion: pipe(
    'a dog', steps=STEPS, seed=seed, inversion=inversion
  )
  assert not np.array_equal(sample(0, False), sample(1, False))
  np.testing.assert_array_equal(sample(0, False), sample(0, False))
  np.testing.assert_array_equal(sample(0, True), sample(1, True))


@pytest.mark.slow  # Compiles the step twice.
def test_resumed_tuning_is_bit_identical(run, clip, tmp_path):
  config, workdir, state = run
  shutil.copytree(workdir / 'clip', tmp_path / 'clip')
  # A run of four steps equals one that was stopped at two and resumed.
  config = _config(clip, steps=4, sample_every=0)
  single_video.prepare(config, tmp_path)
  uninterrupted = loop.train(experiment_lib.Experiment(config, tmp_path))
  shutil.copytree(workdir / 'tune', tmp_path / 'again/tune')
  shutil.copytree(workdir / 'clip', tmp_path / 'again/clip')
  resumed = loop.train(experiment_lib.Experiment(config, tmp_path / 'again'))
  assert int(state.step) == 2 and int(resumed.step) == 4
  jax.tree.map(
    np.testing.assert_array_equal, uninterrupted.params, resumed.params
  )


@pytest.mark.slow
def test_the_untuned_pipeline_differs_from_the_tuned(run, pipe):
  config, workdir, _ = run
  untuned = edit_lib.EditPipeline.untuned(config, workdir)
  for path, leaf in jax.tree_util.tree_leaves_with_path(untuned.params):
    if "'attn_temp'" in str(path) and "'to_out'" in str(path):
      np.testing.assert_array_equal(leaf, 0)
  assert not np.array_equal(untuned.invert(STEPS), pipe.invert(STEPS))


def test_side_by_side():
  source = np.zeros((2, 4, 6, 3), np.uint8)
  edits = np.stack([source + i for i in range(1, 6)])
  grid = contact_sheet.side_by_side(source, edits)
  assert grid.shape == (2, 8, 24, 3)
  values = grid[1, ::4, ::6, 0]
  assert values.tolist() == [[0, 1, 2, 3], [4, 5, 255, 255]]


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(video=''), 'config.video is empty; name the video'),
    (dict(prompt=' '), 'config.prompt is empty; describe'),
    (dict(data=dict(stride=0)), 'stride 0 and start 0; they must be'),
    (
      dict(data=dict(frames=4)),
      '6 frames; 4 of them at stride 2 from'
      ' frame 0 on need 7: set for example --config.data.stride=1',
    ),
    (dict(prompt='a cat ' * 40), 'tokens; at most'),
    (dict(edits=('a cat ' * 40,)), 'tokens; at most'),
    (dict(data=dict(spatial_compression=4)), 'the VAE makes latents of'),
  ],
)
def test_bad_clips(changes, message, clip, tmp_path):
  config = _config(clip)
  data = changes.pop('data', {})
  config.update(changes)
  config.data.update(data)
  with pytest.raises(ValueError, match=message):
    single_video.prepare(config, tmp_path)
  assert not list(tmp_path.glob('clip/manifest.json'))


def test_another_clip_in_the_same_folder(run, clip):
  _, workdir, _ = run
  with pytest.raises(ValueError, match='has another clip or text; choose'):
    single_video.prepare(_config(clip, prompt='a dog'), workdir)
  assert len(dataset_reader.LatentDataset(workdir / 'clip')) == 1


def test_bad_edits(pipe):
  for prompts in ([], ['a cat', ' ']):
    with pytest.raises(ValueError, match='name at least one text'):
      pipe(prompts)
  with pytest.raises(ValueError, match='tokens; at most'):
    pipe('a cat ' * 40, steps=STEPS)
  with pytest.raises(ValueError, match='batch is 0'):
    pipe('a cat', batch=0)
  with pytest.raises(ValueError, match='steps is "5"; expected'):
    pipe('a cat', steps='5')
  assert repr(pipe).startswith('<EditPipeline: stage ')
  with pytest.raises(ValueError, match='2 segments; the clip has 1'):
    pipe(dict(segments=['a cat', 'a dog']))


def test_clean_latents_do_not_tell_the_noise(pipe, monkeypatch):
  backbone = dataclasses.replace(pipe._backbone, prediction='sample')
  monkeypatch.setattr(pipe, '_backbone', backbone)
  with pytest.raises(ValueError, match='inverted; edit with inversion=False'):
    pipe('a dog', steps=STEPS)


def test_editing_with_another_autoencoder(run, tmp_path):
  config, workdir, _ = run
  shutil.copytree(SD, tmp_path / 'sd')
  vae, params = convert.load_kl_vae(SD)
  params = jax.tree.map(lambda x: x * 1.5, params)
  shutil.rmtree(tmp_path / 'sd/vae')
  convert.save_kl_vae(vae, params, tmp_path / 'sd/vae')
  config = config.copy_and_resolve_references()
  config.vae.folder = str(tmp_path / 'sd/vae')
  with pytest.raises(ValueError, match='was made with the vae encoder kl:'):
    edit_lib.EditPipeline(config, None, workdir)


def test_editing_a_run_without_a_video(run):
  config = run[0].copy_and_resolve_references()
  del config['video']
  with pytest.raises(ValueError, match='was not tuned on one video'):
    edit_lib.EditPipeline(config, None, pathlib.Path('nowhere'))


def test_a_folder_without_a_part(tmp_path):
  shutil.copytree(SD, tmp_path / 'sd')
  shutil.rmtree(tmp_path / 'sd/vae')
  with pytest.raises(ValueError, match='has no vae'):
    tune_a_video.get_config(str(tmp_path / 'sd'))


@pytest.mark.slow
def test_tuning_and_editing_with_the_transformer(clip, tmp_path):
  # A stage of the quickstart, small and untrained.
  stage = tiny_experiment.config()
  stage.text.length = 24
  stage.model.text_dim = 384
  texts = single_video.load_text_encoder(stage)
  tiny_experiment.save_stage(
    tmp_path / 'first',
    stage,
    dict(
      vae_identity=single_video.load_video_encoder(stage).identity,
      text_identity=texts.identity,
      scene_token_ids=list(texts.scene_token_ids),
    ),
  )
  config = tune_dit.get_config(str(tmp_path / 'first'))
  frames = np.random.default_rng(1).integers(0, 256, (50, 32, 32, 3))
  video_file.write_video(tmp_path / 'long.mp4', frames.astype(np.uint8), fps=16)
  config.video, config.prompt = str(tmp_path / 'long.mp4'), 'a cat'
  config.edits = ('a dog',)
  config.steps = config.sample_every = config.checkpoint_every = 2
  config.diagnose_every = 0
  config.sample.steps = STEPS
  single_video.prepare(config, tmp_path)
  experiment = experiment_lib.Experiment(config, tmp_path)
  loop.train(
    experiment, training_samples.make_sample_hook(experiment, tmp_path)
  )
  assert (tmp_path / 'tune/samples/000002.mp4').is_file()
  pipe = pipeline.EditPipeline.load(tmp_path / 'tune')
  assert pipe.is_inverted(STEPS)
  edits = pipe(['a dog', 'a house'], steps=STEPS, guidance=6.0)
  assert edits.shape == (2, *pipe.source.shape) == (2, 49, 32, 32, 3)
  config.video = str(clip)
  with pytest.raises(ValueError, match='49 are needed'):
    single_video.prepare(config, tmp_path / 'short')
