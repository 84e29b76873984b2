"""Compares a small U-Net on meshes of eight devices with one device.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python -m tests.models.unet_meshes

prints, as JSON, for every case the largest errors of the output and of the
gradients, relative to the largest value of each: {case: {quantity: error}}.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax import sharding
from ttt_jax.models.unet3d import unet
from ttt_jax.train import optimizer

CONFIG = unet.UNet3DConfig(
    block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2,
    cross_attention=(True, False), num_heads=(2, 4), text_dim=6,
)  # pyformat: disable
# Meshes, clips and frames: split evenly, with frames behind the end, with
# devices that have nothing else, and with clips that do not divide.
CASES = (
    (dict(data=1, sp=8), 1, 8),
    (dict(data=2, sp=4), 4, 9),
    (dict(data=4, sp=2), 3, 5),
    (dict(data=2, sp=4), 2, 1),
)


def parameters():
  """Random everywhere: fresh ones are zero in places that matter."""
  leaves, tree = jax.tree.flatten(unet.abstract_params(CONFIG))
  rng = np.random.default_rng(0)
  fresh = [rng.normal(0, 0.3, x.shape).astype(np.float32) for x in leaves]
  return jax.tree.unflatten(tree, fresh)


def run(params, clips, frames, mesh):
  """Output and gradients: {quantity: array}."""
  module = unet.UNet3D(CONFIG, sharding.Layout(mesh))
  rng = np.random.default_rng(1)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  # Three rows of pixels at the coarser level: 9, which no sp divides.
  inputs = dict(
      latents=draw(clips, frames, 6, 6, 4), text=draw(clips, 3, 6),
      timesteps=np.linspace(3, 996, clips, dtype=np.float32),
  )
  target = draw(clips, frames, 6, 6, 4)
  if mesh is not None:
    params = jax.device_put(params, sharding.tree_shardings(mesh, params))

  @jax.jit
  def gradients(params, latents):
    def loss(params, latents):
      out = module.apply({'params': params}, **inputs | {'latents': latents})
      return jnp.mean(out * target), out
    grads, out = jax.grad(loss, (0, 1), has_aux=True)(params, latents)
    return dict(output=out, latents=grads[1]) | optimizer.flat(grads[0])

  return jax.device_get(gradients(params, inputs['latents']))


def main():
  params, report = parameters(), {}
  for mesh, clips, frames in CASES:
    want = run(params, clips, frames, None)
    got = run(params, clips, frames, sharding.make_mesh(mesh))
    # Small gradients are differences of large numbers.
    top = max(np.abs(want[k]).max() for k in want if k != 'output')
    scale = lambda k: np.abs(want[k]).max() if k == 'output' else top
    report[f'{mesh}, {clips} clips of {frames} frames'] = {
        k: float(np.abs(got[k] - want[k]).max() / scale(k)) for k in want
    }
  print(json.dumps(report))


if __name__ == '__main__':
  main()
