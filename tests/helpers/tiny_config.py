"""A stage that takes a second: a stand-in network on made-up latents."""

import ml_collections


def get_config(stage: str = 'one') -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.name = 'tiny'
  config.stage = stage or 'one'
  config.previous_stage = 'one' if stage == 'two' else ''
  config.seed = 3
  config.steps = 12
  config.batch_size = 4
  config.microbatches = 1
  config.data = dict(folder='{workdir}/data', seconds=3)
  config.model = dict(width=16)
  config.optimizer = dict(
    groups=[
      (r'layers/.*', dict(optimizer='muon', lr=0.02, name='matrices')),
      (
        r'layers/.*|readout/.*',
        dict(lr=1e-2, schedule='cosine', warmup=2, weight_decay=1e-3),
      ),
      (r'.*', None),
    ],
    clip=1.0,
  )
  config.ema_decay = 0.9
  config.text_dropout = 0.1
  config.schedule_shift = 1.0
  config.log_every = 2
  config.diagnose_every = 4
  config.checkpoint_every = 3
  config.keep_last = 2
  config.keep_every = 0
  config.sample_every = 0
  config.mesh = dict(data=1, sp=1)
  return config
