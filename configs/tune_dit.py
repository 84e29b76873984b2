"""Tunes a video transformer with TTT layers on one clip, to edit it.

    python -m ttt_jax.train --config=configs/tune_dit.py:FOLDER \\
        --config.video=clip.mp4 --config.prompt="a man is skiing" --workdir=DIR
    python -m ttt_jax.edit --workdir=DIR --prompt="Spider Man is skiing"

FOLDER is a whole CogVideoX in diffusers' layout, or the folder of a training
run of ours, such as that of configs/quickstart.py: its sizes, encoders and
frame rate are taken, and its weights are what tuning starts from. The clip is
as long as those of the run; 3 s of a CogVideoX.

As in configs/tune_a_video.py the query projections of attention train, and all
of the layers that carry time: there the new temporal attention, here the TTT
layers and their gates.
"""

import pathlib

import ml_collections

from configs import cogvideox
from configs import ttt_video
from ttt_jax.checkpoints import checkpoint


def get_config(folder: str = '') -> ml_collections.ConfigDict:
  """The configuration of one tuning.

  Args:
    folder: whose weights to start from; '' is CogVideoX-5B's sizes.
  """
  config = _base(folder)
  config.name = 'tune_dit'
  config.backbone = 'dit'
  config.stage = 'tune'
  config.previous_stage = ''
  config.init_from = folder
  config.seed = 0
  config.steps = 500
  config.batch_size = 1
  config.microbatches = 1

  config.video = ''
  config.prompt = ''
  config.edits = ()
  config.data.folder = '{workdir}/clip'
  config.data.start = 0.0  # seconds
  config.inversion_prompt = ''

  config.optimizer = dict(
    groups=[
      (
        r'layers/seq/(ttt|gates)/.*',
        dict(
          name='ttt',
          optimizer='adamw',
          lr=1e-4,
          schedule='constant',
          weight_decay=1e-4,
        ),
      ),
      (
        r'layers/seq/attn/q/.*',
        dict(
          name='queries',
          optimizer='adamw',
          lr=3e-5,
          schedule='constant',
          weight_decay=1e-4,
        ),
      ),
      (r'.*', None),
    ],
    betas=(0.9, 0.999),
    clip=1.0,
  )
  config.ema_decay = 0.0
  config.text_dropout = 0.0

  config.log_every = 10
  config.diagnose_every = 50
  config.checkpoint_every = 100
  config.keep_last = 1
  config.keep_every = 0
  config.sample_every = 50
  # Of the videos of `edits`.
  config.sample = dict(steps=50, guidance=6.0)
  config.mesh = dict(data=1, sp=1)
  return config


def _base(folder):
  """The config of what the folder holds."""
  if not folder:
    return ttt_video.get_config('3s')
  if (pathlib.Path(folder) / 'transformer' / 'config.json').is_file():
    return cogvideox.get_config(f'{folder},3s')
  try:
    return checkpoint.load_config(folder)
  except FileNotFoundError as e:
    # The library of the flags tells a ValueError at once, this one late.
    raise ValueError(
      f'{folder} is neither the folder of a CogVideoX nor that of a training'
      ' run'
    ) from e
