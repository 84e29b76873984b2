"""Measures the overhead of splitting a training step over simulated devices.

    python -m benchmarks.simulated_devices

Runs the same batch on one CPU device and on meshes of eight, which share the
same cores: any time beyond that of one device is overhead of splitting,
including collectives. The speed of chips and links is not simulated.
"""

from __future__ import annotations

import os
import time

os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
os.environ['JAX_PLATFORMS'] = 'cpu'


import jax
import numpy as np

from ttt_jax import sharding
from ttt_jax.diffusion import objective
from ttt_jax.models import dit
from ttt_jax.runtime import cli

_MESHES = ((1, 1), (8, 1), (4, 2), (2, 4), (1, 8))
_CALLS = 3


def _step(config, mesh):
  module = dit.DiffusionTransformer(config, sharding.ShardingPlan(mesh))

  def loss(params, batch):
    return objective.diffusion_loss(
      lambda x, t: module.apply({'params': params}, x, batch['text'], t),
      batch['latents'],
      timesteps=batch['timesteps'],
      noise=batch['noise'],
    )[0]

  return jax.jit(jax.value_and_grad(loss))


def main(_) -> None:
  """Prints the seconds of a forward and backward pass for each mesh."""
  config = dit.DiTConfig(
    model_dim=128,
    num_heads=8,
    num_layers=1,
    time_embed_dim=64,
    text_dim=32,
    segment_latent_frames=4,
    mixer='ttt_linear',
    mini_batch=32,
    remat='layer',
  )
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  frames = (8, 9, 8, 8, config.in_channels)
  batch = dict(
    latents=draw(*frames),
    noise=draw(*frames),
    text=draw(8, 2, 24, 32),
    timesteps=rng.integers(0, 1000, 8),
  )
  params = dit.init_params(config, jax.random.key(0))
  print(
    '| data | sp | seconds | relative to one device |\n'
    '| ---: | ---: | ---: | ---: |'
  )
  first = None
  for data, sp in _MESHES:
    mesh = sharding.make_mesh(dict(data=data, sp=sp))
    step = _step(config, mesh)
    arguments = (
      jax.device_put(params, sharding.tree_shardings(mesh, params)),
      sharding.put_batch(mesh, batch),
    )
    jax.block_until_ready(step(*arguments))
    times = []
    for _ in range(_CALLS):
      start = time.perf_counter()
      jax.block_until_ready(step(*arguments))
      times.append(time.perf_counter() - start)
    first = first or min(times)
    print(f'| {data} | {sp} | {min(times):.2f} | {min(times) / first:.2f} |')


if __name__ == '__main__':
  cli.run(main)
