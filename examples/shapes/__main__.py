"""Trains a small Stable Diffusion of the world of shapes from scratch.

    python -m examples.shapes --config=configs/shapes.py --workdir=DIR

Writes DIR/sd in diffusers' layout. Existing parts are not made again.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

from absl import flags
from ml_collections import config_flags
import numpy as np

from examples.shapes import autoencoder
from examples.shapes import pictures
from examples.shapes import words
from ttt_jax import backbones
from ttt_jax import convert
from ttt_jax.checkpoints import checkpoint
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.train import experiment
from ttt_jax.train import loop

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file of the model.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the training run.')

_INDEX = {
  '_class_name': 'StableDiffusionPipeline',
  'feature_extractor': [None, None],
  'requires_safety_checker': False,
  'safety_checker': [None, None],
  'scheduler': ['diffusers', 'DDIMScheduler'],
  'text_encoder': ['transformers', 'CLIPTextModel'],
  'tokenizer': ['transformers', 'CLIPTokenizer'],
  'unet': ['diffusers', 'UNet2DConditionModel'],
  'vae': ['diffusers', 'AutoencoderKL'],
}
_SCHEDULER = {
  '_class_name': 'DDIMScheduler',
  'beta_end': 0.012,
  'beta_schedule': 'scaled_linear',
  'beta_start': 0.00085,
  'clip_sample': False,
  'num_train_timesteps': 1000,
  'prediction_type': 'epsilon',
  'set_alpha_to_one': False,
  'steps_offset': 1,
}


def make(config, workdir: pathlib.Path) -> pathlib.Path:
  """Trains the model and returns its folder, WORKDIR/sd."""
  model = workdir / 'sd'
  model.mkdir(parents=True, exist_ok=True)
  if not (model / 'text_encoder' / 'config.json').is_file():
    correct = words.train(config.words, model)
    print(f'text encoder: {correct:.1%} of held-out captions are correct')
  if not (model / 'vae' / 'config.json').is_file():
    psnr = autoencoder.train(config.autoencoder, model / 'vae')
    print(f'autoencoder: {psnr:.2f} dB on held-out pictures')
  pictures.write_pictures(config, model, workdir / 'data')
  loop.train(experiment.Experiment(config, workdir))
  if not (model / 'unet' / 'config.json').is_file():
    params, _ = checkpoint.load_params(workdir / config.stage, True)
    convert.save_unet(
      backbones.from_config(config).config,
      params,
      model / 'unet',
      dtype=np.float16,
    )
  (model / 'scheduler').mkdir(exist_ok=True)
  files.write_json(_SCHEDULER, model / 'scheduler/scheduler_config.json', 2)
  files.write_json(_INDEX, model / 'model_index.json', 2)
  return model


def main(argv: Sequence[str]) -> int:
  """Trains the model of `--config`."""
  del argv
  if _CONFIG.value is None or _WORKDIR.value is None:
    raise ValueError(
      '--config or --workdir is missing; give both, for example'
      ' --config=configs/shapes.py --workdir=shapes'
    )
  print(f'wrote {make(_CONFIG.value, pathlib.Path(_WORKDIR.value))}')
  return 0


if __name__ == '__main__':
  cli.run(main)
