"""A small Stable Diffusion of a world of shapes, trained from scratch.

    python -m examples.shapes --config=configs/shapes.py --workdir=DIR

Draws the pictures, trains an autoencoder and a text encoder, encodes a data
set, trains the U-Net as `python -m ttt_jax.train` with this config does, and
writes DIR/sd in diffusers' layout, the content of ttt_jax/assets/shapes_sd.
Existing parts are not made again. Takes about 40 minutes on two shared cores.
"""

import ml_collections

from ttt_jax import recipes


def get_config() -> ml_collections.ConfigDict:
  """Returns the config."""
  config = recipes.training(
    name='shapes',
    backbone='unet3d',
    stage='unet',
    steps=2000,
    batch_size=32,
    ema_decay=0.99,
    log_every=25,
    # Values that the trainer does not read.
    extra=('autoencoder', 'words', 'pictures'),
  )
  # 64 x 64 pixels become latents of 16 x 16 x 4.
  config.autoencoder = dict(
    vae=dict(
      latent_channels=4,
      block_out_channels=(16, 32, 64),
      layers_per_block=1,
      norm_num_groups=8,
    ),
    pictures=2048,
    objects=6,  # at most, per picture
    steps=1200,
    batch_size=8,
    kl=1e-5,
    muon_lr=0.03,
    adam_lr=2e-3,
    warmup=20,
    log_every=50,
    seed=0,
  )
  config.words = dict(
    text=dict(width=64, num_layers=2, num_heads=4, mlp_dim=128),
    steps=400,
    batch_size=64,
    lr=2e-3,
    held_out=0.2,  # share of the captions
    seed=0,
  )

  config.pictures = 6144
  config.data = dict(
    folder='{workdir}/data',
    frames=1,
    height=64,
    width=64,
    spatial_compression=4,
    fps=8,
  )
  config.text = dict(length=24)

  config.model = dict(
    in_channels=4,
    out_channels=4,
    block_out_channels=(32, 128),
    layers_per_block=1,
    cross_attention=(False, True),
    num_heads=(4, 4),
    text_dim=64,
    norm_num_groups=8,
    sample_size=16,
    temporal=False,
  )

  def group(name, optimizer, lr):
    return dict(
      name=name, optimizer=optimizer, lr=lr, schedule='cosine', warmup=50
    )

  config.optimizer = dict(
    groups=[
      # A kernel is nine matrices, which all move.
      (r'.*conv[^/]*/kernel', group('convolutions', 'muon', 0.01)),
      (r'.*/kernel', group('matrices', 'muon', 0.02)),
      (r'.*', group('vectors', 'adamw', 2e-3)),
    ],
    betas=(0.9, 0.99),
    clip=1.0,
  )
  return config
