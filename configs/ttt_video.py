"""The paper's five fine-tuning stages of the 5B model (CogVideoX-5B + TTT).

    python -m ttt_jax.train --config=configs/ttt_video.py:3s --workdir=DIR
    python -m ttt_jax.train --config=configs/ttt_video.py:63s,ttt_linear ...

The first argument names the stage (3s, 9s, 18s, 30s, 63s), an optional second
one the mixer (ttt_mlp, ttt_linear, none). Every stage starts from the weights
that the one before left in the same DIR; the first from the folder of a
CogVideoX-5B (`--config.init_from=FOLDER`): configs/cogvideox.py takes that and
all sizes from a folder. `--dry_run` prints sizes and parameter groups and
touches no accelerator.
"""

import ml_collections

# seconds, steps, warm-up, stage whose weights it starts from
STAGES = {
  '3s': (3, 5000, 100, ''),
  '9s': (9, 5000, 100, '3s'),
  '18s': (18, 1000, 50, '9s'),
  '30s': (30, 1000, 50, '18s'),
  '63s': (63, 250, 25, '30s'),
}
BASE_LR = {'ttt_mlp': 0.1, 'ttt_linear': 1.0, 'none': 0.0}


def get_config(arg: str = '3s') -> ml_collections.ConfigDict:
  """The configuration of one stage.

  Args:
    arg: '<stage>' or '<stage>,<mixer>'.
  """
  stage, _, mixer = (arg or '3s').partition(',')
  mixer = mixer or 'ttt_mlp'
  if stage not in STAGES:
    raise ValueError(f'stage {stage!r}; legal are {", ".join(STAGES)}')
  if mixer not in BASE_LR:
    raise ValueError(f'mixer {mixer!r}; legal are {", ".join(BASE_LR)}')
  seconds, steps, warmup, previous = STAGES[stage]
  config = ml_collections.ConfigDict()
  config.name = f'{mixer}_5b'
  config.stage = stage
  config.previous_stage = previous
  config.init_from = ''
  config.seed = 0
  config.steps = steps
  config.batch_size = 64
  config.microbatches = 1

  config.data = dict(
    storyboards='captions.jsonl',
    videos='videos',
    folder='{workdir}/data/' + stage,
    seconds=seconds,
    # Between the beginnings of two clips; 0 is their length.
    stride=0.0,
    fps=16,
    height=480,
    width=720,
    soften=False,
  )
  # Tiles take less memory and change the latents a little.
  config.vae = dict(folder='cogvideox-5b/vae', tiling=False)
  # Any length will do: the last mini-batch is padded. The paper's own
  # lengths (458 to 502) only served to divide by 64.
  config.text = dict(
    folder='cogvideox-5b/text_encoder',
    length=480,
    dtype='bfloat16',
    # Folder of embeddings, for all stages and for samples; '' keeps none.
    cache='',
  )

  config.model = dict(
    mixer=mixer,
    mini_batch=64,
    ttt_base_lr=BASE_LR[mixer],
    dtype='bfloat16',
    # 'offload' halves the memory of 63 s: the host keeps what waits.
    remat='layer',
    # Of the TTT kernel and of attention; none is the backend's best.
    implementation=ml_collections.config_dict.placeholder(str),
    attention=ml_collections.config_dict.placeholder(str),
  )

  fresh = dict(
    name='ttt',
    optimizer='adamw',
    lr=1e-4 if stage == '3s' else 1e-5,
    schedule='cosine' if stage == '3s' else 'constant',
    warmup=warmup,
    end_lr=1e-5,
    weight_decay=1e-4,
  )
  pretrained = dict(
    name='pretrained',
    optimizer='adamw',
    lr=1e-5,
    schedule='linear',
    warmup=warmup,
    end_lr=1e-5,
    weight_decay=1e-4,
  )
  config.optimizer = dict(
    groups=[
      (r'layers/seq/(ttt|gates)/.*', fresh),
      # From 9 s on attention and its norms alone join the TTT layers.
      (r'.*' if stage == '3s' else r'layers/seq/attn/.*', pretrained),
      (r'.*', None),
    ],
    betas=(0.9, 0.95),
    clip=0.1,
  )
  config.ema_decay = 0.0
  config.text_dropout = 0.1
  config.schedule_shift = 1.0
  config.scheduler = 'cogvideox_dpm'  # of the samples

  config.log_every = 10
  config.diagnose_every = 100
  config.checkpoint_every = 250
  config.keep_last = 2
  config.keep_every = 1000
  config.sample_every = 0
  config.mesh = dict(data=1, sp=1)
  return config
