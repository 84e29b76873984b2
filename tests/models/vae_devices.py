"""Compares the autoencoder over eight devices with one device.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python -m tests.models.vae_devices [encode] [decode] [tiled]

prints, as JSON, the largest errors relative to the largest value.
"""

import json
import sys

import jax
import numpy as np

from tests.helpers import tiny_vae
from ttt_jax.models.vae import stream as stream_lib
from ttt_jax.models.vae import tiling as tiling_lib


def run(params, devices, tiling=None):
  return stream_lib.VAEStream(
    tiny_vae.CONFIG, params, tiling=tiling, devices=jax.devices()[:devices]
  )


def main(*names):
  params = tiny_vae.parameters(tiny_vae.CONFIG)
  # Frames of 1024 pixels and more are convolved one by one, others are not.
  frames, latents = tiny_vae.clip(9, 32, 48), tiny_vae.latents(5, 16, 24)
  tiles = tiling_lib.Tiling(32, 32, 0.25, 0.25)
  calls = {
    'encode': lambda n: [m for m, _ in run(params, n).encode(frames)],
    'decode': lambda n: list(run(params, n).decode(latents)),
    'tiled': lambda n: list(run(params, n, tiles).decode(latents[:, :3])),
  }
  report = {}
  for name in names:
    call = calls[name]
    one, eight = (np.concatenate(call(n), axis=1) for n in (1, 8))
    report[name] = float(np.abs(one - eight).max() / np.abs(one).max())
  print(json.dumps(report))


if __name__ == '__main__':
  main(*sys.argv[1:])
