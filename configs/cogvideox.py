"""The paper's stages on the CogVideoX in a Hugging Face folder.

    python -m ttt_jax.precompute --config=configs/cogvideox.py:FOLDER,3s \\
        --config.data.storyboards=captions.jsonl --config.data.videos=videos \\
        --workdir=DIR
    python -m ttt_jax.train --config=configs/cogvideox.py:FOLDER,3s \\
        --workdir=DIR

The argument is '<folder>', '<folder>,<stage>' or '<folder>,<stage>,<mixer>'.
FOLDER contains transformer/, vae/, text_encoder/, tokenizer/ and scheduler/ of
CogVideoX-5B, -2B, or of a model of any other size. Its files define the sizes
of the network and of the videos; all other values are those of
configs/ttt_video.py. The first stage starts from its weights.
docs/finetune.md explains every step.
"""

import ml_collections

from ttt_jax import recipes


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Returns the config of one stage.

  Args:
    arg: Folder, stage and mixer, as above.
  """
  folder, _, stage = arg.partition(',')
  if not folder:
    raise ValueError(
      'the configuration needs a folder, for example'
      ' --config=cogvideox:CogVideoX-5b,3s'
    )
  return recipes.cogvideox(folder, stage)
