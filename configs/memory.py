"""Do the TTT layers carry the story? Two models trained alike, one without.

    python -m ttt_jax.precompute --config=configs/memory.py:18s --workdir=DIR
    python -m ttt_jax.train --config=configs/memory.py:18s,none --workdir=DIR

The argument is '<stage>' or '<stage>,<mixer>'. Only the first caption of a
clip says what is shown; the later ones say that it goes on. Frames are 32x48
pixels, so that 18 seconds train on a laptop; the attention windows are the
usual three seconds. `make demo-memory` runs all of it.
"""

import ml_collections

from configs import quickstart

# seconds, steps, batch size, stage whose weights it starts from
STAGES = {
  '3s': (3, 300, 6, ''),
  '18s': (18, 300, 3, '3s'),
}
MIXERS = ('ttt_mlp', 'ttt_linear', 'none')


def get_config(arg: str = '18s') -> ml_collections.ConfigDict:
  """The configuration of one stage with one mixer."""
  length, _, mixer = (arg or '18s').partition(',')
  mixer = mixer or 'ttt_mlp'
  if length not in STAGES:
    raise ValueError(f'stage {length!r}; legal are {", ".join(STAGES)}')
  if mixer not in MIXERS:
    raise ValueError(f'mixer {mixer!r}; legal are {", ".join(MIXERS)}')
  seconds, steps, batch_size, previous = STAGES[length]
  config = quickstart.get_config('3s')
  config.name = 'memory'
  config.stage = f'{mixer}_{length}'
  config.previous_stage = previous and f'{mixer}_{previous}'
  config.steps = steps
  config.batch_size = batch_size
  config.data.storyboards = f'configs/storyboards/memory_{length}.json'
  config.data.folder = '{workdir}/data/' + length
  config.data.seconds = seconds
  config.data.height = 32
  config.data.width = 48
  config.model.mixer = mixer
  config.model.mini_batch = 16
  if mixer == 'ttt_linear':
    config.model.ttt_base_lr = 1.0
  return config
