"""A model of one-minute cartoons, trained from nothing.

    python -m examples.cartoon.train --workdir=cartoon

trains everything. For each stage it runs these commands, which can be typed,
too; the first one needs a clone of the repository:

    python -m examples.cartoon.dataset --out=cartoon/stories/9s \\
        --stories=1500 --segments=3 --settings=simple --fps=8
    python -m ttt_jax.precompute --config=configs/cartoon.py:3s \\
        --workdir=cartoon
    python -m ttt_jax.train --config=configs/cartoon.py:3s --workdir=cartoon

The argument is '<stage>' or '<stage>,<mixer>', with any mixer of
docs/mixers.md. It samples stories of a minute after stages of three and nine
seconds; longer stages of single clips made it remember less (docs/remember.md).
The first two stages learn places, from much noise; `details` learns what is
small and moves, the characters, from less noise.
Every story has its own looks of characters and places, told at their first
mention; later captions have only the names.
"""

import ml_collections

from ttt_jax import recipes

# Stage: seconds, steps, batch size, peak learning rate of Muon, stage whose
# weights it starts from. All cut their clips from stories of nine seconds.
# `make demo-train` has the quick ones.
STAGES = {
  '3s': (3, 600, 8, 0.04, ''),
  '9s': (9, 1700, 3, 0.04, '3s'),
  'details': (9, 5500, 3, 0.02, '9s'),
  'quick_3s': (3, 300, 8, 0.04, ''),
  'quick_9s': (9, 300, 3, 0.04, 'quick_3s'),
}
# Folder of the run, which has the autoencoder and the text encoder.
_RUN = 'cartoon'


def get_config(arg: str = '3s') -> ml_collections.ConfigDict:
  """Returns the config of one stage with one mixer."""
  stage, mixer = recipes.parse_stage(arg or '3s', STAGES)
  seconds, steps, batch_size, lr, previous = STAGES[stage]
  has_details = stage == 'details'
  config = recipes.training(
    name='cartoon',
    stage=stage if mixer == 'ttt_mlp' else f'{mixer}_{stage}',
    previous_stage=previous
    and (previous if mixer == 'ttt_mlp' else f'{mixer}_{previous}'),
    steps=steps,
    batch_size=batch_size,
    ema_decay=0.99,
    text_dropout=0.0,  # sampled without guidance
    scheduler='cogvideox_dpm',  # of the samples
    # Colours of a place are visible in almost pure noise. The attributes that
    # only the text and the memory contain are learned where they are not. What
    # moves has a twentieth of the variance, and is visible in little noise.
    schedule_shift=2.0 if has_details else 32.0,
    x0_weight_limit=20.0 if has_details else 0.0,
    diagnose_every=50,
    checkpoint_every=100,
    keep_last=1,
  )
  stories = '{workdir}/stories/9s'
  config.data = dict(
    storyboards=f'{stories}/storyboards.json',
    videos=f'{stories}/videos',
    folder='{workdir}/data/' + f'{seconds}s',
    seconds=seconds,
    fps=8,
    height=64,
    width=96,
    spatial_compression=16,
    soften=False,
  )
  config.vae = dict(folder=f'{_RUN}/autoencoder')
  config.text = dict(folder=f'{_RUN}/text_encoder', length=34)
  config.model = dict(
    model_dim=192,
    num_heads=6,
    num_layers=4,
    time_embed_dim=192,
    text_dim=288,
    in_channels=128,
    out_channels=128,
    patch_size=1,
    # The width would not pass on the noise of 128 channels.
    prediction='sample',
    input_skip=has_details,
    segment_latent_frames=6,
    base_rows=4,
    base_columns=6,
    max_text_length=34,
    # Half a segment.
    **recipes.mixer_fields(mixer, mini_batch=101),
  )
  config.optimizer = dict(
    groups=recipes.muon_groups(lr, train_all=True),
    betas=(0.9, 0.95),
    clip=1.0,
  )
  return config
