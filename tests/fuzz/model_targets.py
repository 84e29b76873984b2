"""Configs, weights, tokenizers, noise schedules and checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import tempfile
import warnings

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from tests.fuzz import guard
from tests.fuzz import mutations
from tests.fuzz import target as target_lib
from tests.helpers import commands
from tests.helpers import tiny_experiment
from tests.helpers import tiny_vae
from ttt_jax import convert
from ttt_jax import recipes
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import train_state
from ttt_jax.convert import clip as convert_clip
from ttt_jax.convert import clip_model as convert_clip_model
from ttt_jax.convert import dit as convert_dit
from ttt_jax.convert import kl_vae as convert_kl_vae
from ttt_jax.convert import lazy_params
from ttt_jax.convert import minilm as convert_minilm
from ttt_jax.convert import native
from ttt_jax.convert import registry
from ttt_jax.convert import stable_diffusion
from ttt_jax.convert import t5 as convert_t5
from ttt_jax.convert import unet as convert_unet
from ttt_jax.convert import vae as convert_vae
from ttt_jax.encoders import clip_pixels
from ttt_jax.encoders import load_text
from ttt_jax.train import init_from

_FIXTURES = target_lib.FIXTURES
_TEXTS = ('<start_scene>A cat<end_scene>', '', 'é\0日本 ' * 40, ' \n\t')


@functools.cache
def _saved(kind: str) -> mutations.Files:
  """Returns the files of a model that a test has to write."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'model')
    if kind == 'vae':
      convert.save_vae(
        tiny_vae.CONFIG, tiny_vae.parameters(tiny_vae.CONFIG), path
      )
    elif kind == 'shards':
      config, params = convert.load_dit(_FIXTURES / 'tiny_rope')
      convert_dit.FORMAT.save(config, params, path, shard_bytes=20_000)
    elif kind == 'native':
      config, params = convert.load_clip(_FIXTURES / 'tiny_sd')
      native.write(path, 'clip', dataclasses.asdict(config), params)
    elif kind == 'run':
      config = tiny_experiment.config()
      tiny_experiment.save_stage(path, config, dict(vae_identity='vae:1'))
    elif kind == 'averaged':
      state = train_state.TrainState(
        step=np.int32(5),
        params=dict(a=jnp.zeros(3), b=jnp.zeros(3)),
        opt_state=dict(x=jnp.ones(1)),
        ema=dict(a=jnp.ones(3)),
      )
      config = tiny_experiment.config()
      with checkpoint.Checkpoints(path / '3s', config) as checkpoints:
        checkpoints.save(state, {})
    return mutations.read(path)


@functools.cache
def _fixture(name: str, *names: str) -> mutations.Files:
  found = mutations.read(_FIXTURES / name, *names)
  return {k: v for k, v in found.items() if not k.endswith('.npz')}


# Kind of model: its files, its format, and sizes that may be 0 or below.
_MODELS = {
  'transformer': (lambda: _fixture('tiny_rope'), convert_dit.FORMAT),
  'transformer 2b': (lambda: _fixture('tiny_sincos'), convert_dit.FORMAT),
  'vae': (lambda: _saved('vae'), convert_vae.FORMAT),
  'text encoder t5': (
    lambda: _fixture('tiny_t5/text_encoder'),
    convert_t5.FORMAT,
  ),
  'unet': (lambda: _fixture('tiny_sd/unet'), convert_unet.FORMAT),
  'kl vae': (lambda: _fixture('tiny_sd/vae'), convert_kl_vae.FORMAT),
  'text encoder clip': (
    lambda: _fixture('tiny_sd/text_encoder'),
    convert_clip.FORMAT,
  ),
  'clip': (
    lambda: _fixture('tiny_clip'),
    getattr(convert_clip_model, 'FORMAT', None),
  ),
  'bert': (
    lambda: _fixture('tiny_bert'),
    getattr(convert_minilm, 'FORMAT', None),
  ),
}
_UNSIGNED = (
  'shift',
  'gate_init',
  'ttt_base_lr',
  'pad_id',
  'eos_id',
  'eos_token_id',
)


def _is_config(name: str) -> bool:
  return name.endswith('.json') and 'index' not in name


def _read_config(model, folder):
  config = model.load_config(folder)
  target_lib.check_sizes(config, *_UNSIGNED)


def _load(model, folder):
  return model.load(folder, sharding=lazy_params.ABSTRACT)


for _name, (_files, _format) in _MODELS.items():
  if _format is None:
    continue
  target_lib.add_folder(
    f'config of {_name}',
    'folders',
    _files,
    functools.partial(_read_config, _format),
    lambda name: name == 'config.json',
  )
  # With the shapes that the config describes: traced, so fewer.
  target_lib.add_folder(
    f'config and weights of {_name}',
    'folders',
    _files,
    functools.partial(_load, _format),
    lambda name: name == 'config.json',
    weight=0.3,
  )
  target_lib.add_folder(
    f'weights of {_name}',
    'folders',
    _files,
    functools.partial(_load, _format),
    lambda name: 'safetensors' in name,
    weight=0.5,
  )

if getattr(convert_minilm, 'FORMAT', None) is None:
  target_lib.add_folder(
    'bert',
    'folders',
    lambda: _fixture('tiny_bert'),
    convert_minilm.load_minilm,
    weight=2,
  )
if getattr(convert_clip_model, 'FORMAT', None) is None:
  target_lib.add_folder(
    'clip',
    'folders',
    lambda: _fixture('tiny_clip'),
    convert.load_clip_model,
    weight=2,
  )
target_lib.add_folder(
  'weights in several files',
  'folders',
  lambda: _saved('shards'),
  functools.partial(_load, convert_dit.FORMAT),
  lambda name: name != 'config.json',
)
target_lib.add_folder(
  'pixels of clip',
  'folders',
  lambda: _fixture('tiny_clip', 'preprocessor_config.json'),
  clip_pixels.ClipPixels.load,
  weight=0.5,
)


def _read_tokens(folder):
  tokenize, ids = load_text.load_tokenizer(folder)
  for text in _TEXTS:
    found = tokenize(text)
    assert all(type(i) is int and i >= 0 for i in found), found[:5]
  assert all(type(i) is int and i >= 0 for i in ids), ids


def _is_tokenizer(name):
  return not name.endswith(('.safetensors', 'encoder/config.json'))


def _t5_fast():
  files = {
    f'text_encoder/{k}': v for k, v in _fixture('tiny_t5/text_encoder').items()
  }
  fast = _fixture('tiny_t5/fast')
  return files | {f'tokenizer/{k}': v for k, v in fast.items()}


for _name, _files in (
  ('t5', lambda: _fixture('tiny_t5')),
  ('t5 fast', _t5_fast),
  ('clip', lambda: _fixture('tiny_sd')),
  ('bert', lambda: _fixture('tiny_bert')),
):
  target_lib.add_folder(
    f'tokenizer of {_name}',
    'folders',
    _files,
    _read_tokens,
    lambda name: 'token' in name or name in ('vocab.json', 'merges.txt'),
  )


def _read_complete(folder):
  """Looks at a complete Stable Diffusion as convert and tuning do."""
  for part in registry.find_parts(folder).values():
    registry.detect_format(part).load_config(part)
  recipes.stable_diffusion_sizes(folder)


target_lib.add_folder(
  'complete stable diffusion',
  'folders',
  lambda: _fixture('tiny_sd'),
  _read_complete,
  lambda name: name.endswith('.json') and 'token' not in name,
  weight=2,
)

_SCHEDULER = {
  'scheduler_config.json': b"""{"_class_name": "CogVideoXDPMScheduler",
 "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
 "clip_sample": false, "num_train_timesteps": 1000, "steps_offset": 0,
 "prediction_type": "v_prediction", "rescale_betas_zero_snr": true,
 "set_alpha_to_one": true, "snr_shift_scale": 1.0,
 "timestep_spacing": "trailing"}"""
}


def _read_scheduler(folder):
  name, shift = stable_diffusion.load_scheduler(folder)
  target_lib.check_sane(shift, 'snr_shift_scale')
  if type(shift) is not float or shift <= 0:
    raise guard.Nonsense(f'snr_shift_scale: {shift}')


target_lib.add_folder(
  'scheduler of cogvideox', 'folders', lambda: _SCHEDULER, _read_scheduler
)


def _write_values(rng, folder):
  """Replaces numbers by those that a diverged training leaves."""
  files = dict(_fixture('tiny_sincos'))
  name = 'diffusion_pytorch_model.safetensors'
  data = files[name]
  start = 8 + int.from_bytes(data[:8], 'little')
  at = start + 4 * rng.randrange((len(data) - start) // 4)
  word = rng.choice((b'\xff' * 4, b'\0\0\x80\x7f', b'\0\x7c\0\x7c'))
  files[name] = data[:at] + word + data[at + 4 :]
  mutations.write(folder, files)


def _read_values(folder, _):
  _, params = convert.load_dit(folder)
  if not all(np.isfinite(x).all() for x in jax.tree.leaves(params)):
    raise guard.Nonsense('weights: not finite')


target_lib.add(
  target_lib.Target(
    'values of weights', 'folders', _write_values, _read_values, weight=0.3
  )
)


def _write_to_convert(rng, folder):
  kind = rng.choice(('tiny_sd/text_encoder', 'tiny_sincos', 'native'))
  files = _saved(kind) if kind == 'native' else _fixture(kind)
  mutations.write_changed(
    rng, folder / 'model', files, lambda name: name == 'config.json'
  )
  # Somebody's files next to the new folder, under likely names.
  for name in ('out.tmp', '.out.tmp', 'out.partial', 'model.tmp'):
    mutations.write(folder, {f'{name}/mine': b'mine'})


def _convert(folder, _):
  module = 'ttt_jax.convert'
  done = commands.run(module, '--source=model', '--out=out', cwd=folder)
  if done.returncode:
    raise ValueError(done.stderr.strip().removeprefix('error: '))


target_lib.add(
  target_lib.Target(
    'convert',
    'folders',
    _write_to_convert,
    _convert,
    weight=0.5,
    writes=lambda path: (
      path == 'named/out' or path.startswith(('named/out/', 'named/.out.'))
    ),
    reads=lambda path: path.startswith('named'),
  )
)


def _read_native(folder):
  found = native.read(folder)
  config = registry.native_config(found)
  target_lib.check_sizes(config, *_UNSIGNED)
  found.params(sharding=lazy_params.ABSTRACT)


target_lib.add_folder(
  'converted model',
  'folders',
  lambda: _saved('native'),
  _read_native,
  lambda name: '.json' in name or 'META' in name or 'sharding' in name,
)


def _read_run(folder):
  """Reads a training run as sampling, converting and resuming do."""
  config = checkpoint.load_config(folder)
  checkpoint.load_data(folder)
  checkpoint.load_params(folder)
  with checkpoint.Checkpoints(folder / '3s', tiny_experiment.config()) as c:
    c.check_config()
  return config


def _write_averaged(rng, folder):
  """Loses the average in one of several ways."""
  files = dict(_saved('averaged'))
  name = '3s/checkpoints/5/meta/metadata'
  meta = json.loads(files[name])
  if rng.random() < 0.5:
    meta['items'] = rng.choice((['params'], ['params', 'opt_state'], [], 'x'))
    files[name] = json.dumps(meta).encode()
  else:
    lost = rng.choice((1, 9))  # The folder, or one file of it.
    inside = [n for n in files if '/ema/' in n]
    for n in inside if lost == 9 else rng.sample(inside, 1):
      del files[n]
  mutations.write(folder, files)


def _read_averaged(folder, _):
  with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter('always')
    params, _ = checkpoint.load_params(folder)
  if not said and not (np.asarray(params['a']) == 1).all():
    raise guard.Nonsense('weights: silently not the averaged ones')


target_lib.add(
  target_lib.Target(
    'averaged weights',
    'commands',
    _write_averaged,
    _read_averaged,
    weight=0.3,
  )
)


def _read_run_to_start_from(folder):
  found = init_from.resolve_init_from(epath.Path(folder), '9s')
  found.identity()


def _is_metadata(name):
  return 'meta' in name.lower() or name.endswith(('.json', '_sharding'))


target_lib.add_folder(
  'training run',
  'commands',
  lambda: _saved('run'),
  _read_run,
  _is_metadata,
  weight=0.3,
)
target_lib.add_folder(
  'run to start from',
  'commands',
  lambda: _saved('run'),
  _read_run_to_start_from,
  lambda name: name.endswith('meta/metadata'),
  weight=0.5,
)
