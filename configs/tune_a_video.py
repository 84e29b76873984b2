"""Tunes Stable Diffusion on one video, to edit it with other words.

    python -m ttt_jax.train --config=configs/tune_a_video.py:FOLDER \\
        --config.video=clip.mp4 --config.prompt="a man is skiing" --workdir=DIR
    python -m ttt_jax.edit --workdir=DIR --prompt="Spider Man is skiing"

FOLDER contains a Stable Diffusion 1.x or 2.x in diffusers' layout (unet, vae,
text_encoder, tokenizer, scheduler); its files define the sizes of the network.
Without FOLDER the config has those of Stable Diffusion 1.4 and expects the
folder stable-diffusion-v1-4. The values are those of Tune-A-Video (ICCV 2023):
the query projections of spatial and cross-attention train, and all of the new
temporal attention. `--config.edits` are texts that are sampled during training,
every `sample_every` steps.
"""

import ml_collections

from ttt_jax import recipes


def get_config(folder: str = '') -> ml_collections.ConfigDict:
  """Returns the config of one tuning.

  Args:
    folder: Folder of Stable Diffusion, or 'package:NAME/REST' for a folder
      inside an installed package.
  """
  init_from = folder or 'stable-diffusion-v1-4'
  config = recipes.training(
    **recipes.tuning(
      name='tune_a_video',
      backbone='unet3d',
      init_from=init_from,
      # Sampling of the videos of `edits`.
      sample=dict(steps=50, guidance=12.5),
    )
  )
  config.data = dict(
    folder='{workdir}/clip',
    frames=24,
    # Every second frame of the file, starting with the first.
    stride=2,
    start=0,
    height=512,
    width=512,
    spatial_compression=8,
    fps=8,  # of the files that are written
  )
  config.vae = dict(folder=f'{init_from}/vae', dtype='')
  config.text = dict(
    folder=f'{init_from}/text_encoder', length=77, dtype='', truncate=False
  )
  config.model = dict(
    dtype='float32',
    remat='layer',
    # The scores of one frame take 1 GiB at 512 x 512.
    attention_frames=1,
    temporal=True,
  )
  # Levels at which DDIM samples and inverts.
  config.ddim = dict(offset=1, ends_clean=False)
  if folder:
    config.update(recipes.stable_diffusion_sizes(folder))

  tuned = dict(
    name='tuned',
    optimizer='adamw',
    lr=3e-5,
    schedule='constant',
    weight_decay=1e-2,
  )
  config.optimizer = dict(
    groups=[
      (r'.*/(attn[12]/to_q|attn_temp)/.*', tuned),
      (r'.*', None),
    ],
    betas=(0.9, 0.999),
    clip=1.0,
  )
  return config
