"""A run of one device goes on with eight."""

import os
import signal

import jax
import numpy as np

from tests.helpers import fake_training
from tests.helpers import tiny_config
from ttt_jax.checkpoints import checkpoint
from ttt_jax.train import loop


def test_eight_devices_resume_a_run_of_one(tmp_path, capfd):
  config = tiny_config.get_config()
  with config.unlocked():
    config.update(batch_size=8, model=dict(width=128), sample_every=6)
  want = loop.train(fake_training.StandIn(config, tmp_path / 'one_device'))
  stop = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
  interrupted = loop.train(
    fake_training.StandIn(config, tmp_path / 'both'), stop
  )
  assert int(interrupted.step) == 7
  assert jax.tree.leaves(interrupted.params)[0].devices() == {jax.devices()[0]}

  capfd.readouterr()
  config.mesh.data = 8
  state = loop.train(fake_training.StandIn(config, tmp_path / 'both'))
  assert 'after step 7' in ''.join(capfd.readouterr())
  kernel = state.params['layers']['mlp']['kernel']
  assert kernel.sharding.spec[:2] == (None, 'data')
  assert len(kernel.devices()) == 8
  got = checkpoint.load_params(tmp_path / 'both', ema=False)[0]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    got,
    jax.device_get(want.params),
  )
