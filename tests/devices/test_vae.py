"""The autoencoder over eight devices: parts of frames and tiles."""

import jax
import numpy as np
import pytest

from tests.helpers import compare
from tests.helpers import tiny_vae
from ttt_jax.models.vae import stream as stream_lib
from ttt_jax.models.vae import tiling as tiling_lib


def run(params, devices, tiling=None):
  return stream_lib.VAEStream(
    tiny_vae.CONFIG, params, tiling=tiling, devices=jax.devices()[:devices]
  )


@pytest.mark.parametrize(
  'what',
  [
    'encode',
    # The same convolutions over parts of frames, in three more programs.
    pytest.param('decode', marks=pytest.mark.slow),
    pytest.param('tiled', marks=pytest.mark.slow),
  ],
)
def test_results_do_not_depend_on_the_number_of_devices(what):
  params = tiny_vae.parameters(tiny_vae.CONFIG)
  # Frames of 1024 pixels and more are convolved one by one, others are not.
  frames, latents = tiny_vae.clip(9, 32, 48), tiny_vae.latents(5, 16, 24)
  tiles = tiling_lib.Tiling(32, 32, 0.25, 0.25)
  calls = {
    'encode': lambda n: [m for m, _ in run(params, n).encode(frames)],
    'decode': lambda n: list(run(params, n).decode(latents)),
    'tiled': lambda n: list(run(params, n, tiles).decode(latents[:, :3])),
  }
  one, eight = (np.concatenate(calls[what](n), axis=1) for n in (1, 8))
  assert compare.relative_error(eight, one) < 1e-5
