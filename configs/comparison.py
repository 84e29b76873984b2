"""A small model of the cartoon world, to compare mixers (docs/remember.md).

    python -m examples.cartoon.comparison --workdir=comparison

runs the comparison. It trains with this recipe, whose argument is
'<stage>,<mixer>' or '<stage>,<mixer>,<learning rate>':

    python -m ttt_jax.train --config=configs/comparison.py:9s,mamba2,0.02 \\
        --workdir=DIR --config.data.folder=comparison/data/9s

Frames have 32x48 pixels, and there are 4 per second: a segment has 72 tokens of
video and 34 of text. The stage 'search' compares learning rates. The comparison
ends with '9s'; the longer stages are for experiments with the curriculum.
"""

import ml_collections

from ttt_jax import recipes

# Stage: seconds, steps, batch size, factor of the learning rate, stage whose
# weights it starts from.
STAGES = {
  'search': (9, 150, 3, 1.0, ''),
  '3s': (3, 300, 8, 1.0, ''),
  '9s': (9, 700, 3, 1.0, '3s'),
  '18s': (18, 1200, 1, 0.75, '9s'),
  '30s': (30, 600, 1, 0.5, '18s'),
  '63s': (63, 240, 1, 0.25, '30s'),
}
_LEARNING_RATE = 0.04  # of Muon
# Tokens of half a segment: 1.5 s, like the 8192 tokens of the paper's sliding
# window, and one inner step of the TTT layers.
_HALF_SEGMENT = 53
# Local attention alone has a fifth block, so that all models have 1.96 to 2.1
# million parameters.
_LAYERS = {'none': 5}


def get_config(arg: str = '9s') -> ml_collections.ConfigDict:
  """Returns the config of one stage with one mixer."""
  stage_and_mixer, _, lr = (arg or '9s').rpartition(',')
  try:
    lr = float(lr)
  except ValueError:
    stage_and_mixer, lr = arg or '9s', _LEARNING_RATE
  stage, mixer = recipes.parse_stage(stage_and_mixer, STAGES)
  seconds, steps, batch_size, factor, previous = STAGES[stage]
  config = recipes.training(
    name='comparison',
    stage=stage,
    previous_stage=previous,
    steps=steps,
    batch_size=batch_size,
    ema_decay=0.99,
    text_dropout=0.0,  # sampled without guidance
    scheduler='cogvideox_dpm',  # of the samples
    # The colour of a place is visible in almost pure noise. The attributes that
    # only the text and the memory contain are learned where it is not: with
    # this shift at a quarter of the timesteps, without it at 9 percent.
    schedule_shift=16.0,
    diagnose_every=50,
    checkpoint_every=150,
  )
  folder = f'{seconds}s'
  config.data = dict(
    storyboards='{workdir}/stories/' + folder + '/storyboards.json',
    videos='{workdir}/stories/' + folder + '/videos',
    folder='{workdir}/data/' + folder,
    seconds=seconds,
    fps=4,
    height=32,
    width=48,
    soften=False,
  )
  config.vae = dict(folder='comparison/autoencoder')
  config.text = dict(folder='comparison/text_encoder', length=34)
  fields = dict(mini_batch=_HALF_SEGMENT)
  if mixer == 'sliding_window':
    fields['window_size'] = _HALF_SEGMENT
  config.model = dict(
    model_dim=128,
    num_heads=4,
    num_layers=_LAYERS.get(mixer, 4),
    time_embed_dim=128,
    text_dim=288,
    in_channels=32,
    out_channels=32,
    patch_size=1,
    prediction='sample',
    segment_latent_frames=3,
    base_rows=4,
    base_columns=6,
    max_text_length=34,
    remat='products',
    **recipes.mixer_fields(mixer, **fields),
  )
  config.optimizer = dict(
    groups=recipes.muon_groups(lr * factor, train_all=True),
    betas=(0.9, 0.95),
    clip=1.0,
  )
  return config
