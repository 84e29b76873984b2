"""Every value of a config has a type and a range."""

import copy

import pytest

from tests.helpers import configs
from ttt_jax import backbones
from ttt_jax import config_schema
from ttt_jax.train import optimizer

RECIPES = dict(
  dit=configs.load('quickstart').get_config(),
  unet3d=configs.load('tune_a_video').get_config(),
)
NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(
  'name', ['memory', 'quickstart', 'shapes', 'ttt_video', 'tune_a_video']
)
def test_recipes_have_legal_values(name):
  config_schema.check(configs.load(name).get_config())


@pytest.mark.parametrize(
  'backbone, name, value, message',
  [
    ('dit', 'seed', -1, 'config.seed is -1; expected a whole number >= 0'),
    ('dit', 'seed', True, 'config.seed is true; expected a whole number'),
    ('dit', 'steps', '9', 'config.steps is "9"; expected a whole number'),
    ('dit', 'ema_decay', NAN, 'config.ema_decay is NaN; expected a number >='),
    ('dit', 'schedule_shift', 0, 'config.schedule_shift is 0.0; .* number > 0'),
    ('dit', 'schedule_shift', INF, 'is Infinity; expected a number <= '),
    ('dit', 'stage', '..', "config.stage is '..'; it must be the name of a"),
    ('dit', 'previous_stage', '../x', 'config.previous_stage is'),
    ('dit', 'backbone', 'gan', 'config.backbone is "gan"; .* dit, unet3d'),
    ('dit', 'ema_decya', 0.9, "unknown key 'ema_decya'; did you .* 'ema_decay"),
    ('dit', 'data.fps', 0, 'config.data.fps is 0; expected a whole number >='),
    ('dit', 'data.seconds', -3, 'config.data.seconds is -3; .* number > 0'),
    ('dit', 'data.frames', 9, "config.data has the unknown key 'frames'"),
    ('dit', 'data.videos', print, 'config has a value that is not JSON'),
    ('dit', 'text.length', 1.5, 'config.text.length is 1.5; expected a whole'),
    ('dit', 'vae.dtype', 'f8', "config.vae.dtype is .f8.; expected one of ''"),
    ('dit', 'mesh.dp', 2, "config.mesh has the unknown key 'dp'; expected"),
    ('dit', 'optimizer.clip', -1, 'config.optimizer.clip is -1.0; .* >= 0'),
    ('dit', 'optimizer.betas', (0.9, 1), 'item 2 of config.optimizer.betas is'),
    ('dit', 'optimizer.groups', [], 'config.optimizer.groups is ..; .* >= 1'),
    ('unet3d', 'data.stride', 0, 'config.data.stride is 0; .* whole number >='),
    ('unet3d', 'ddim.offset', 1000, 'config.ddim.offset is 1000; .* <= 999'),
    ('unet3d', 'sample.guidance', NAN, 'sample.guidance is NaN; .* a finite'),
    ('unet3d', 'edits', ('a', ' '), 'item 2 of config.edits is " "; expected'),
  ],
)
def test_values_that_are_not(backbone, name, value, message):
  config = copy.deepcopy(RECIPES[backbone])
  section, _, key = name.rpartition('.')
  with config.unlocked(), config.ignore_type():
    (config[section] if section else config)[key] = value
  with pytest.raises(ValueError, match=message) as e:
    config_schema.check(config)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'backbone, name, value, message',
  [
    ('dit', 'num_layers', -1, 'model.num_layers is -1; expected a whole .* 1'),
    ('dit', 'num_heads', 0, 'model.num_heads is 0; expected a whole number >='),
    ('dit', 'mini_batch', True, 'model.mini_batch is true; expected a whole'),
    ('dit', 'norm_eps', NAN, 'model.norm_eps is NaN; expected a number > 0'),
    ('dit', 'ttt_base_lr', INF, 'model.ttt_base_lr is Infinity'),
    ('dit', 'num_layer', 1, "config.model has .* 'num_layer'; did you mean"),
    ('unet3d', 'layers', 1, "config.model has the unknown key 'layers'"),
  ],
)
def test_sizes_of_networks_that_are_not(backbone, name, value, message):
  config = copy.deepcopy(RECIPES[backbone])
  with config.unlocked(), config.ignore_type():
    config.model[name] = value
  with pytest.raises(ValueError, match=message):
    backbones.from_config(config)


def test_groups_have_the_kinds_of_their_values():
  groups = [('.*', dict(lr=1e-3, warmup=-1))]
  with pytest.raises(
    ValueError, match='"warmup" of parameter group \'.\\*\' is'
  ):
    optimizer.assign_groups(groups, dict())


def test_a_missing_value_is_named():
  config = copy.deepcopy(RECIPES['dit'])
  with config.unlocked():
    del config.seed
  with pytest.raises(ValueError, match='config has no "seed"'):
    config_schema.check(config)
  config_schema.check(config, saved=True)
  with config.unlocked():
    del config.data.fps
  with pytest.raises(ValueError, match='config.data has no "fps"'):
    config_schema.check(config, saved=True)


def test_saved_configs_of_other_versions_may_have_other_names():
  config = copy.deepcopy(RECIPES['dit'])
  with config.unlocked():
    config.new = config.data.new = config.text.new = 1
  config_schema.check(config, saved=True)
  config.data.fps = -1
  with pytest.raises(ValueError, match='config.data.fps is -1'):
    config_schema.check(config, saved=True)


def test_values_of_other_programs_are_declared():
  config = configs.load('shapes').get_config()
  config.extra = ('words',)
  with pytest.raises(ValueError, match="unknown key 'autoencoder', 'pictures'"):
    config_schema.check(config)
