"""Tunes a video transformer with a mixer on one clip, to edit it.

    python -m ttt_jax.train --config=configs/tune_dit.py:FOLDER \\
        --config.video=clip.mp4 --config.prompt="a man is skiing" --workdir=DIR
    python -m ttt_jax.edit --workdir=DIR --prompt="Spider Man is skiing"

FOLDER is a complete CogVideoX in diffusers' layout, or the folder of a training
run such as that of configs/quickstart.py. It defines sizes, encoders and frame
rate, and tuning starts from its weights. The clip has the length of the clips
of that run; 3 s for a CogVideoX.

As in configs/tune_a_video.py, the query projections of attention train, and so
do the layers that carry time: there the new temporal attention, here the mixer
and its gates.
"""

import ml_collections

from ttt_jax import recipes


def get_config(folder: str = '') -> ml_collections.ConfigDict:
  """Returns the config of one tuning.

  Args:
    folder: Folder of the weights to start from; '' has CogVideoX-5B's sizes.
  """
  config = recipes.dit_base(folder)
  config.update(
    recipes.tuning(
      name='tune_dit',
      backbone='dit',
      init_from=folder,
      diagnose_every=50,
      # Sampling of the videos of `edits`.
      sample=dict(steps=50, guidance=6.0),
    )
  )
  config.data.folder = '{workdir}/clip'
  config.data.start = 0.0  # seconds

  def group(name, lr):
    return dict(
      name=name,
      optimizer='adamw',
      lr=lr,
      schedule='constant',
      weight_decay=1e-4,
    )

  config.optimizer = dict(
    groups=[
      (recipes.MIXER, group('ttt', 1e-4)),
      (r'layers/seq/attn/q/.*', group('queries', 3e-5)),
      (r'.*', None),
    ],
    betas=(0.9, 0.999),
    clip=1.0,
  )
  return config
