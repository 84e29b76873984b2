"""A small transformer on a data set of noise, for `train.Experiment`."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers import configs
from ttt_jax import geometry
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import train_state as state_lib
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import writer as writer_lib
from ttt_jax.models import dit

CLIPS, TEXT, WIDTH = 3, 5, 12


def config(stage='3s'):
  """Returns a small config of the quickstart."""
  small = configs.load('quickstart').get_config(stage)
  small.data.height = small.data.width = 32
  small.text.length = TEXT
  small.model.update(
    model_dim=32,
    num_heads=2,
    num_layers=2,
    time_embed_dim=16,
    text_dim=WIDTH,
    mini_batch=4,
  )
  small.batch_size, small.steps = 2, 3
  small.log_every = 1
  small.diagnose_every = small.checkpoint_every = 3
  return small


def write_data_set(folder, config, **changes):
  """Writes a data set of noise that fits a config."""
  g = geometry.Geometry.from_config(config)
  fields = dict(
    vae_identity='vae:1',
    text_identity='text:1',
    scale=1.0,
    fps=g.fps,
    height=g.height,
    width=g.width,
    frames=g.frames,
    segments=g.segments,
    text_length=g.text_length,
    mini_batch=g.mini_batch,
  )
  manifest = manifest_lib.Manifest(**fields | changes)
  rng = np.random.default_rng(0)
  shape = (g.latent_frames, g.latent_height, g.latent_width, 16)
  writer = writer_lib.LatentWriter(folder, manifest, CLIPS)
  for row in range(CLIPS):
    writer.write(
      row,
      f'clip{row}',
      'x',
      mean=rng.normal(size=shape),
      logvar=np.full(shape, -4.0),
      text=rng.normal(size=(g.segments, TEXT, WIDTH)),
    )
  writer.write_null_text(np.zeros((TEXT, WIDTH)))
  writer.finish(
    [dict(name=f'clip{row}', row=row, storyboard={}) for row in range(CLIPS)]
  )


def save_stage(workdir, config, identity):
  """Saves a finished stage without training it."""
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(scale=0.1, size=x.shape), jnp.float32),
    dit.abstract_params(dit.DiTConfig(**config.model)),
  )
  state = state_lib.TrainState(
    step=jnp.int32(5), params=params, opt_state=dict(x=jnp.ones(1)), ema={}
  )
  with checkpoint.Checkpoints(workdir / config.stage, config) as checkpoints:
    checkpoints.save(state, dict(identity=identity))
  return params
