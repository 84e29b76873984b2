"""The paper's five fine-tuning stages of the 5B model (CogVideoX-5B + TTT).

    python -m ttt_jax.train --config=configs/ttt_video.py:3s --workdir=DIR
    python -m ttt_jax.train --config=configs/ttt_video.py:63s,ttt_linear ...

The argument is '<stage>' (3s, 9s, 18s, 30s or 63s) or '<stage>,<mixer>', with
any mixer of docs/mixers.md. Every stage starts from the weights that the
previous one left in the same DIR. The first stage starts from the folder of a
CogVideoX-5B (`--config.init_from=FOLDER`); configs/cogvideox.py also reads all
sizes from such a folder. `--dry_run` prints sizes and parameter groups and
uses no accelerator. The values are in ttt_jax/recipes.py.
"""

import ml_collections

from ttt_jax import recipes

STAGES = recipes.STAGES  # seconds, steps, warm-up, stage to start from


def get_config(arg: str = '3s') -> ml_collections.ConfigDict:
  """Returns the config of one stage.

  Args:
    arg: '<stage>' or '<stage>,<mixer>'.
  """
  return recipes.ttt_video(arg)
