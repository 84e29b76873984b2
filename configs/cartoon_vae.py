"""The decoder of the cartoon's autoencoder.

    python -m examples.cartoon.autoencoder --config=configs/cartoon_vae.py \\
        --linear=DIR --workdir=DIR

64x96 pixels become latents of 4x6x128, and four frames become one. The latents
are principal components; the decoder learns what is lost.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Returns the config."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.fps = 8
  config.height = 64
  config.width = 96
  # Stories of the world of `examples.cartoon`.
  config.settings = 'simple'
  config.segments = 5
  config.stories = 200
  config.validation_stories = 2
  config.eval_frames = 49

  config.vae = dict(
    block_out_channels=(32, 48, 64, 64),
    layers_per_block=1,
    norm_num_groups=8,
    patch_size=2,
  )
  config.steps = 2000
  config.batch_size = 1
  # Per training window: two chunks of the decoder.
  config.frames = 17
  # Share of the windows that contain a hard cut.
  config.cuts = 0.25
  # Weight of the errors where characters are; elsewhere it is 1.
  config.character_weight = 4
  # The decoder also cleans what the transformer leaves.
  config.noise = 0.3
  config.kl = 0.0
  # Weight of the squared error, next to 1 of the absolute error.
  config.square = 4.0
  config.muon_lr = 0.02
  config.adam_lr = 1e-3
  config.warmup = 20
  config.log_every = 100
  return config
