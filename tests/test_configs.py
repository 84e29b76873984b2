"""configs/: every recipe, by shapes alone."""

import json
import math
import sys

from flax import traverse_util
import jax
import ml_collections
import pytest

from tests.helpers import configs
from ttt_jax import backbones
from ttt_jax import geometry
from ttt_jax import recipes
from ttt_jax.models import dit
from ttt_jax.models.dit import mixers
from ttt_jax.train import experiment
from ttt_jax.train import optimizer

cogvideox = configs.load('cogvideox')
memory = configs.load('memory')
quickstart = configs.load('quickstart')
ttt_video = configs.load('ttt_video')
tune_a_video = configs.load('tune_a_video')
tune_dit = configs.load('tune_dit')

# CogVideoX-5B's transformer.
PRETRAINED = 5_570_283_072
ATTENTION = 42 * (4 * (3072**2 + 3072) + 2 * 2 * 64)
# Each of the 42 layers: q, k, v, o; the step size; the inner MLP with its
# norm; the norm after it; four gates.
TTT = 42 * (
  4 * (3072**2 + 3072)
  + 48 * (3072 + 1)
  + 48 * (64 * 256 + 256 + 256 * 64 + 64 + 2 * 64)
  + 2 * 3072
  + 4 * 3072
)


def trained(config):
  params = backbones.from_config(config).abstract_params()
  groups = optimizer.assign_groups(config.optimizer.groups, params)
  sizes = {
    path: math.prod(leaf.shape)
    for path, leaf in traverse_util.flatten_dict(params, sep='/').items()
  }
  return (
    sum(sizes.values()),
    sum(n for path, n in sizes.items() if groups[path] is not None),
  )


@pytest.mark.parametrize(
  'stage,steps,latent_frames,segments',
  [
    ('3s', 5000, 13, 1),
    ('9s', 5000, 37, 3),
    ('18s', 1000, 73, 6),
    ('30s', 1000, 121, 10),
    ('63s', 250, 253, 21),
  ],
)
def test_stages_of_the_paper(stage, steps, latent_frames, segments):
  config = ttt_video.get_config(stage)
  assert (config.steps, config.batch_size) == (steps, 64)
  g = geometry.Geometry.from_config(config)
  assert (g.latent_frames, g.segments) == (latent_frames, segments)
  assert g.sequence_length == 1350 * latent_frames + 480 * segments
  everything, training = trained(config)
  assert everything == PRETRAINED + TTT
  assert training == (everything if stage == '3s' else ATTENTION + TTT)


def test_without_a_mixer_it_is_the_pretrained_model():
  assert trained(ttt_video.get_config('3s,none'))[0] == PRETRAINED


def test_the_5b_model_at_63_seconds_by_shapes():
  config = ttt_video.get_config('63s')
  g = geometry.Geometry.from_config(config)
  model = dit.DiTConfig(**config.model)
  struct = lambda *shape: jax.ShapeDtypeStruct(shape, 'float32')
  out = jax.eval_shape(
    dit.DiffusionTransformer(model).apply,
    {'params': dit.abstract_params(model)},
    struct(1, g.latent_frames, g.latent_height, g.latent_width, 16),
    struct(1, g.segments, g.text_length, 4096),
    struct(1),
  )
  assert out.shape == (1, 253, 60, 90, 16)


@pytest.mark.parametrize(
  'module,args',
  [
    (quickstart, quickstart.STAGES),
    (memory, [f'{s},{m}' for s in memory.STAGES for m in mixers.MIXERS]),
    (
      ttt_video,
      [f'{s},{m}' for s in recipes.STAGES for m in mixers.MIXERS],
    ),
  ],
)
def test_every_parameter_has_a_group(module, args):
  for arg in args:
    config = module.get_config(arg)
    assert isinstance(config, ml_collections.ConfigDict)
    everything, training = trained(config)
    assert 0 < training <= everything


@pytest.mark.parametrize('module', [quickstart, memory, ttt_video])
def test_an_unknown_stage_lists_the_known_ones(module):
  with pytest.raises(ValueError, match="mixer ''; expected one of none, ttt_"):
    configs.load('quickstart').get_config('3s,')
  with pytest.raises(ValueError, match="stage '4s'; expected one of 3s, "):
    module.get_config('4s')


@pytest.mark.parametrize(
  'path', sorted(configs.FOLDER.glob('*.py')), ids=lambda path: path.stem
)
def test_loads_by_path_beside_a_foreign_configs_package(
  path, tmp_path, monkeypatch
):
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / '__init__.py').touch()
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, 'configs', raising=False)
  module = configs.load(path.stem)
  arguments = () if path.stem != 'cogvideox' else (f'{folder(tmp_path)},3s',)
  config = module.get_config(*arguments)
  assert isinstance(config, ml_collections.ConfigDict)
  assert 'configs' not in sys.modules


def folder(tmp_path, scheduler='DPM', shift=1.0, **transformer):
  """Writes the files of a CogVideoX folder that a config reads."""
  for name, content in (
    ('transformer/config.json', transformer),
    (
      'scheduler/scheduler_config.json',
      {
        '_class_name': f'CogVideoX{scheduler}Scheduler',
        'snr_shift_scale': shift,
      },
    ),
  ):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
  return str(tmp_path)


def test_a_folder_of_the_5b_model_is_the_papers_config(tmp_path):
  where = folder(
    tmp_path,
    num_attention_heads=48,
    num_layers=42,
    use_rotary_positional_embeddings=True,
  )
  for stage in recipes.STAGES:
    config = cogvideox.get_config(f'{where},{stage}')
    paper = ttt_video.get_config(stage)
    assert trained(config) == trained(paper)
    found = {k: v for k, v in config.items() if paper.get(k) != v}
    differ = {'name', 'vae', 'text', 'model'}
    assert set(found) == differ | ({'init_from'} if stage == '3s' else set())
    assert config.data == paper.data
    for name, value in paper.model.items():
      assert config.model[name] == value
  assert config.vae.folder == f'{where}/vae'


def test_a_folder_of_the_2b_model(tmp_path):
  where = folder(tmp_path, 'DDIM', 3.0)
  config = cogvideox.get_config(f'{where},9s,ttt_linear')
  assert (config.scheduler, config.schedule_shift) == ('cogvideox_ddim', 3.0)
  assert (config.model.positions, config.model.num_heads) == ('sincos', 30)
  assert config.model.ttt_base_lr == 1.0 and config.init_from == ''
  assert (config.data.height, config.data.width) == (480, 720)
  # CogVideoX-2B's transformer: no mixer, no new parameters.
  config = cogvideox.get_config(f'{where},3s,none')
  assert trained(config)[0] == 1_693_783_872


@pytest.mark.parametrize(
  'arg, message',
  [
    ('', 'needs a folder, for example'),
    ('nowhere,3s', 'nowhere must be the folder of a complete CogVideoX'),
    ('nowhere,4s', "stage '4s'; expected one of 3s, "),
  ],
)
def test_no_folder(arg, message):
  with pytest.raises(ValueError, match=message):
    cogvideox.get_config(arg)


def test_one_shot_tuning_has_the_values_of_the_paper():
  config = tune_a_video.get_config()
  assert (config.data.frames, config.data.stride) == (24, 2)
  assert (config.steps, config.sample.steps, config.sample.guidance) == (
    500,
    50,
    12.5,
  )
  # Stable Diffusion 1.4 and, in each of its 16 transformers, attention over
  # time: four projections, one bias, a norm.
  widths = [320] * 5 + [640] * 5 + [1280] * 6
  temporal = sum(4 * c * c + c for c in widths)
  norms = sum(2 * c for c in widths)
  everything, training = trained(config)
  assert everything == 859_520_964 + temporal + norms
  assert training == temporal + 2 * sum(c * c for c in widths)


def test_tuning_the_transformer_trains_queries_and_ttt():
  everything, training = trained(tune_dit.get_config())
  assert everything == PRETRAINED + TTT
  queries = 42 * (3072**2 + 3072)
  assert training == queries + TTT


def test_a_u_net_has_nothing_to_diagnose():
  config = tune_a_video.get_config()
  experiment.check_config(config)
  config.diagnose_every = 5
  with pytest.raises(ValueError, match='diagnose_every is 5; a U-Net has no'):
    experiment.check_config(config)


def test_sizes_of_frames_are_checked():
  for change, message in (
    (dict(height=36), 'height is 36 pixels; it must be a multiple of 8'),
    (dict(frames=0), 'frames is 0; it must be a positive integer'),
  ):
    config = tune_a_video.get_config()
    config.data.update(change)
    with pytest.raises(ValueError, match=message):
      backbones.geometry(config)
