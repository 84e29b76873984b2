"""The paper's stages on the CogVideoX that a Hugging Face folder holds.

    python -m ttt_jax.precompute --config=configs/cogvideox.py:FOLDER,3s \\
        --config.data.storyboards=captions.jsonl --config.data.videos=videos \\
        --workdir=DIR
    python -m ttt_jax.train --config=configs/cogvideox.py:FOLDER,3s \\
        --workdir=DIR

The argument is '<folder>', '<folder>,<stage>' or '<folder>,<stage>,<mixer>'.
FOLDER holds transformer/, vae/, text_encoder/, tokenizer/ and scheduler/: of
CogVideoX-5B, -2B, or of a model of any other size. Its files decide the sizes
of the network and of the videos; all else is as in configs/ttt_video.py. The
first stage starts from its weights. docs/finetune.md walks through all steps.
"""

import dataclasses

import ml_collections

from configs import ttt_video
from ttt_jax.convert import dit
from ttt_jax.convert import stable_diffusion
from ttt_jax.runtime import json_file

_CELL = 8  # pixels a latent cell, per side


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The configuration of one stage.

  Args:
    arg: folder, stage and mixer, as above.
  """
  folder, _, rest = arg.partition(',')
  if not folder:
    raise ValueError(
      'the configuration needs a folder, for example'
      ' configs/cogvideox.py:CogVideoX-5b,3s'
    )
  config = ttt_video.get_config(rest)
  path = f'{folder}/transformer/config.json'
  try:
    content = json_file.read(path)
    config.scheduler, config.schedule_shift = stable_diffusion.load_scheduler(
      f'{folder}/scheduler'
    )
  except FileNotFoundError as e:
    # The library of the flags tells a ValueError at once, this one late.
    raise ValueError(
      f'{e}; {folder} must be the folder of a whole CogVideoX'
    ) from e
  found = dataclasses.asdict(dit.config_from_json(content, path))
  # What the folder knows nothing of stays as the stage has it.
  for name in (*config.model, 'gate_init'):
    found.pop(name, None)
  config.model.update(found)
  config.name = f'{config.model.mixer}_{folder.rstrip("/").split("/")[-1]}'
  if not config.previous_stage:
    config.init_from = folder
  config.vae.folder = f'{folder}/vae'
  config.text.folder = f'{folder}/text_encoder'
  config.data.storyboards = 'captions.jsonl'
  config.data.height = found['base_rows'] * found['patch_size'] * _CELL
  config.data.width = found['base_columns'] * found['patch_size'] * _CELL
  return config
