"""Tunes Stable Diffusion on one video, to edit it with other words.

    python -m ttt_jax.train --config=configs/tune_a_video.py:FOLDER \\
        --config.video=clip.mp4 --config.prompt="a man is skiing" --workdir=DIR
    python -m ttt_jax.edit --workdir=DIR --prompt="Spider Man is skiing"

FOLDER holds a Stable Diffusion 1.x or 2.x in diffusers' layout (unet, vae,
text_encoder, tokenizer, scheduler); its files decide the sizes of the network.
Without it the config has those of Stable Diffusion 1.4 and expects the folder
stable-diffusion-v1-4. The values are those of Tune-A-Video (ICCV 2023): the
query projections of spatial and cross-attention train, and all of the new
attention over time. `--config.edits` are texts whose videos are made while
training, every `sample_every` steps.
"""

import dataclasses
import pathlib

import ml_collections

from ttt_jax.convert import kl_vae
from ttt_jax.convert import stable_diffusion
from ttt_jax.convert import unet as unet_lib
from ttt_jax.runtime import paths

_FOLDER = 'stable-diffusion-v1-4'
# Not the folder's business, but this run's.
_OURS = ('temporal', 'reference_bias', 'dtype', 'remat', 'attention_frames')


def get_config(folder: str = '') -> ml_collections.ConfigDict:
  """The configuration of one tuning.

  Args:
    folder: of Stable Diffusion; 'package:NAME/REST' is inside of a package.
  """
  config = ml_collections.ConfigDict()
  config.name = 'tune_a_video'
  config.backbone = 'unet3d'
  config.stage = 'tune'
  config.previous_stage = ''
  config.init_from = folder or _FOLDER
  config.seed = 0
  config.steps = 500
  config.batch_size = 1
  config.microbatches = 1

  config.video = ''
  config.prompt = ''
  config.edits = ()
  config.data = dict(
    folder='{workdir}/clip',
    frames=24,
    # Of the file: every second frame, from the first on.
    stride=2,
    start=0,
    height=512,
    width=512,
    spatial_compression=8,
    fps=8,  # of what is written
  )
  config.vae = dict(folder=f'{config.init_from}/vae', dtype='')
  config.text = dict(
    folder=f'{config.init_from}/text_encoder', length=77, dtype=''
  )

  config.model = dict(
    dtype='float32',
    remat='layer',
    # A frame has 1 GiB of scores at 512 x 512.
    attention_frames=1,
    temporal=True,
  )
  # Along which levels DDIM samples and inverts.
  config.ddim = dict(offset=1, ends_clean=False)
  config.inversion_prompt = ''
  if folder:
    _read_folder(config, folder)

  config.optimizer = dict(
    groups=[
      (
        r'.*/(attn[12]/to_q|attn_temp)/.*',
        dict(
          name='tuned',
          optimizer='adamw',
          lr=3e-5,
          schedule='constant',
          weight_decay=1e-2,
        ),
      ),
      (r'.*', None),
    ],
    betas=(0.9, 0.999),
    clip=1.0,
  )
  config.ema_decay = 0.0
  config.text_dropout = 0.0
  config.schedule_shift = 1.0

  config.log_every = 10
  config.diagnose_every = 0
  config.checkpoint_every = 100
  config.keep_last = 1
  config.keep_every = 0
  config.sample_every = 50
  # Of the videos of `edits`.
  config.sample = dict(steps=50, guidance=12.5)
  config.mesh = dict(data=1, sp=1)
  return config


def _read_folder(config, folder):
  """Sizes and noise levels of the model in a folder."""
  try:
    place = paths.resolve(folder)
    schedule = stable_diffusion.load_schedule(place)
    part = lambda name: stable_diffusion.find_part(place, name) / 'config.json'
    unet, vae, text = map(part, ('unet', 'vae', 'text_encoder'))
    found = unet_lib.config_from_json(
      stable_diffusion.read_config(unet),
      str(unet),
      prediction=schedule.prediction,
      temporal=True,
      reference_bias=False,
    )
    autoencoder = kl_vae.config_from_json(
      stable_diffusion.read_config(vae), str(vae)
    )
  except FileNotFoundError as e:
    # The library of the flags tells a ValueError at once, this one late.
    raise ValueError(str(e)) from e
  fields = dataclasses.asdict(found)
  config.model.update({k: v for k, v in fields.items() if k not in _OURS})
  config.ddim.update(offset=schedule.offset, ends_clean=schedule.ends_clean)
  size = stable_diffusion.read_config(text).get('max_position_embeddings')
  config.text.length = size or config.text.length
  config.data.spatial_compression = autoencoder.spatial_compression
  config.name = f'tune_a_video_{pathlib.Path(place).name}'
