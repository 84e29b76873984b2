"""The U-Net on meshes of eight devices: outputs and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax import sharding
from ttt_jax.checkpoints import train_state
from ttt_jax.models import frames as frames_lib
from ttt_jax.models.unet3d import unet

CONFIG = unet.UNet3DConfig(
  block_out_channels=(4,),
  layers_per_block=1,
  norm_num_groups=2,
  cross_attention=(True,),
  num_heads=(2,),
  text_dim=6,
)
# Meshes, clips and frames: with frames behind the end, with devices that have
# nothing else, split evenly, with clips that do not divide, and pictures.
CASES = (
  (dict(data=2, sp=4), 2, 5),
  (dict(data=1, sp=8), 1, 9),
  (dict(data=4, sp=2), 4, 6),
  (dict(data=4, sp=2), 3, 5),
  (dict(data=2, sp=4), 2, 1),
)


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def parameters():
  """Random everywhere: fresh ones are zero in places that matter."""
  leaves, tree = jax.tree.flatten(unet.abstract_params(CONFIG))
  fresh = [0.3 * draw([0, i], *x.shape) for i, x in enumerate(leaves)]
  return jax.tree.unflatten(tree, fresh)


def run_network(params, clips, frames, mesh):
  """Output and gradients: {quantity: array}."""
  module = unet.UNet3D(CONFIG, sharding.ShardingPlan(mesh))
  latents, target = draw(1, 2, clips, frames, 3, 3, 4)
  text, times = draw(2, clips, 3, 6), np.linspace(3, 996, clips)
  if mesh is not None:
    params = jax.device_put(params, sharding.tree_shardings(mesh, params))

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
  def gradients(params, latents):
    out = module.apply({'params': params}, latents, text, jnp.float32(times))
    return jnp.sum(out * target), out

  grads, out = gradients(params, latents)
  return jax.device_get(
    dict(output=out, latents=grads[1]) | train_state.flatten(grads[0])
  )


def run_frames(clips, frames, mesh):
  """What frames do with each other, with its gradient: {quantity: array}."""
  sharding_plan = sharding.ShardingPlan(mesh)
  here = frames_lib.Frames(frames, sharding_plan.sp)
  # Five pixels, which no sp divides.
  x, target = draw(3, 2, clips, frames, 5, 4)
  behind = ((0, 0), (0, here.padding), (0, 0), (0, 0))
  target = jnp.pad(target, behind)

  def mixed(weight, x, target):
    b, f, p, m = x.shape
    tokens = x.reshape(b * f, p, m)
    two = here.first_and_previous(jnp.tanh(tokens)).reshape(b, f, -1, p, m)
    # Frames meet in an order that matters.
    time = here.by_pixels(
      lambda y: jnp.cumsum(y, axis=1) * weight, tokens
    ).reshape(x.shape)
    mean = here.mean(x[:, :, None])[:, None, None]
    return jnp.square(two[:, :, 0] + 2 * two[:, :, -1] + time + mean) + target

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
  def gradients(weight, x):
    x = jnp.pad(x, behind)
    if mesh is None:
      out = mixed(weight, x, target)
    else:
      out = sharding_plan.by_frames(
        lambda w, x: mixed(w, x[..., :4], x[..., 4:]),
        weight,
        jnp.concatenate([x, target], axis=-1),
      )
    return jnp.sum(jnp.sin(out[:, :frames])), out[:, :frames]

  grads, out = gradients(jnp.float32([0.1, 0.2, 0.3, 0.4]), x)
  return jax.device_get(dict(frames=out, weight=grads[0], pixels=grads[1]))


def errors(run, clips, frames, shape):
  want = run(clips, frames, None)
  got = run(clips, frames, sharding.make_mesh(shape))
  # Some gradients are small differences of large numbers.
  top = max(np.abs(x).max() for x in want.values())
  scale = lambda x: max(np.abs(x).max(), 1e-2 * top)
  return {
    k: float(np.abs(got[k] - want[k]).max() / scale(want[k])) for k in want
  }


@pytest.mark.parametrize('shape, clips, frames', CASES)
def test_frames_over_devices(shape, clips, frames):
  found = errors(run_frames, clips, frames, shape)
  assert max(found.values()) < 1e-5, found


@pytest.mark.slow  # What meshes change is what frames do with each other.
@pytest.mark.parametrize('shape, clips, frames', CASES)
def test_every_mesh_gives_what_one_device_gives(shape, clips, frames):
  network = functools.partial(run_network, parameters())
  found = errors(network, clips, frames, shape)
  assert 'conv_in/kernel' in found
  assert max(found.values()) < 1e-5, found
