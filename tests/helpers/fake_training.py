"""An `Experiment` without data set and DiT, and a program that trains it.

python -m tests.helpers.fake_training --config=tests/helpers/tiny_config.py \
    --workdir=DIR [--pause=SECONDS]
"""

import time

from absl import flags
from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import config_flags
import numpy as np

from ttt_jax import sharding
from ttt_jax.checkpoints import checkpoint
from ttt_jax.runtime import bucket
from ttt_jax.runtime import cli
from ttt_jax.runtime import distributed
from ttt_jax.train import loop
from ttt_jax.train import timing

CLIPS = 7
FEATURES = 16


class Batches:
  """Endless batches with a state, as `ttt_jax.data.batches` gives them."""

  skipped = {}

  def __init__(self, config, mesh, pause, poison):
    self._config, self._pause, self._poison = config, pause, poison
    size = config.batch_size
    self._rows = sharding.local_rows(mesh, size) if mesh else slice(None)
    self._step = 0

  def get_state(self):
    return dict(step=self._step)

  def set_state(self, state):
    self._step = state['step']

  def __next__(self):
    rng = np.random.default_rng((self._config.seed, self._step))
    clip = rng.integers(0, CLIPS, self._config.batch_size).astype(np.int32)
    mean = np.cos(clip[:, None] + np.arange(FEATURES)).astype(np.float32)
    self._step += 1
    if self._step == self._poison:
      mean[0] = np.nan
    time.sleep(self._pause)
    return dict(mean=mean[self._rows], clip=clip[self._rows])


class StandIn:
  """What `loop.train` reads of an experiment, on 2-D arrays."""

  def __init__(self, config, workdir, pause=0.0, poison=None):
    """`pause`: seconds a batch takes; `poison`: step whose batch is NaN."""
    self.config = config
    self.folder = epath.Path(workdir) / config.stage
    self.clips = [dict(name=f'clip-{i}') for i in range(CLIPS)]
    self.init_folder = None
    if config.previous_stage:
      self.init_folder = epath.Path(workdir) / config.previous_stage
    self._pause, self._poison = pause, poison
    self.abstract_params = jax.eval_shape(
      self.init, jax.eval_shape(lambda: jax.random.key(0))
    )

  def init(self, key):
    width = self.config.model['width']
    keys = jax.random.split(key, 3)
    normal = lambda k, *shape: 0.3 * jax.random.normal(k, shape)
    return dict(
      embed=dict(kernel=normal(keys[0], FEATURES, width)),
      layers=dict(
        mlp=dict(
          kernel=normal(keys[1], 2, width, width),
          bias=jnp.zeros((2, width)),
        )
      ),
      readout=dict(kernel=normal(keys[2], width, FEATURES)),
    )

  def _network(self, params, x):
    x = x @ params['embed']['kernel']
    mlp = params['layers']['mlp']
    for w, b in zip(mlp['kernel'], mlp['bias']):
      x = x + jnp.tanh(x @ w + b)
    return x @ params['readout']['kernel']

  def objective(self, mesh):
    del mesh
    return self

  def loss_fn(self, params, batch, key):
    keys = jax.random.split(key)
    x = batch['mean']
    timesteps = jax.random.randint(keys[0], x.shape[:1], 0, 1000)
    noisy = x + jax.random.normal(keys[1], x.shape) * timesteps[:, None] / 999
    losses = jnp.mean(jnp.square(self._network(params, noisy) - x), axis=-1)
    return jnp.mean(losses), (losses, timesteps)

  def diagnose(self, params, batch, key):
    del key
    bias = params['layers']['mlp']['bias']
    return dict(gate=jnp.abs(bias), inner_loss_before=jnp.mean(batch['mean']))

  def batches(self, mesh=None):
    return Batches(self.config, mesh, self._pause, self._poison)

  def clip_cost(self, trainable):
    del trainable
    return timing.ClipCost(tokens=3, flops=7e9)

  def identity(self):
    return dict(vae_identity='none')

  def check_identity(self, saved, folder):
    assert saved == self.identity(), folder

  def load_init_params(self, sharding):
    return checkpoint.load_params(self.init_folder, sharding=sharding)[0]


def main(argv):
  del argv
  bucket.check(_WORKDIR.value, write=True)
  distributed.initialize()
  loop.train(StandIn(_CONFIG.value, _WORKDIR.value, _PAUSE.value))


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file('config')
  _WORKDIR = flags.DEFINE_string('workdir', None, 'folder')
  _PAUSE = flags.DEFINE_float('pause', 0.0, 'seconds a batch takes')
  cli.run(main)
