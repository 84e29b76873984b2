"""The small video autoencoder of the cartoon.

    python -m examples.cartoon.autoencoder --config=configs/cartoon_vae.py \\
        --workdir=DIR

64x96 pixels become latents of 4x6x32, and four frames become one.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Returns the config."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.height = 64
  config.width = 96
  # Stories of the world of `examples.cartoon`.
  config.settings = 'simple'
  config.segments = 5
  config.stories = 100
  config.validation_stories = 2
  config.eval_frames = 49

  config.vae = dict(
    latent_channels=32,
    block_out_channels=(64, 80, 96),
    layers_per_block=1,
    norm_num_groups=8,
    patch_size=4,
    linear_shortcut=True,
    shortcut_cells=(4, 6),
    shortcut_channels=16,
  )
  config.steps = 4500
  # Steps of the decoder alone that follow.
  config.decoder_steps = 3000
  config.batch_size = 2
  config.frames = 9  # per training window, the first that the encoder reads
  # Share of the windows that contain a hard cut.
  config.cuts = 0.25
  # Weight of the errors where characters are; elsewhere it is 1.
  config.character_weight = 8
  config.kl = 1e-5
  # Weight of the squared error, next to 1 of the absolute error.
  config.square = 4.0
  config.muon_lr = 0.02
  config.adam_lr = 1e-3
  config.warmup = 20
  config.log_every = 100
  return config
