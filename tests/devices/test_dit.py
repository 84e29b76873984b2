"""The transformer on meshes of eight devices: loss, gradients, samples."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import compare
from ttt_jax import sharding
from ttt_jax.checkpoints import train_state
from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import objective
from ttt_jax.diffusion import samplers
from ttt_jax.diffusion import sampling_schedule
from ttt_jax.models import dit
from ttt_jax.models.dit import mixers

BATCH = 8
# Frames of 2 x 3 tokens and texts of 7: one segment is 37 tokens, two are 68,
# which no sp of 2 or more divides into whole mini-batches.
HEIGHT, WIDTH, TEXT = 4, 6, 7


@functools.cache
def config(mixer):
  return dit.DiTConfig(
    model_dim=128,
    num_heads=8,
    num_layers=2,
    time_embed_dim=16,
    text_dim=12,
    in_channels=4,
    out_channels=4,
    segment_latent_frames=4,
    mixer=mixer,
    mini_batch=4,
    remat='layer',
  )


def parameters(config):
  """Random everywhere: fresh ones are zero in places that matter."""
  leaves, tree = jax.tree.flatten(dit.abstract_params(config))
  rng = np.random.default_rng(0)
  fresh = [rng.normal(0, 0.1, x.shape).astype(np.float32) for x in leaves]
  return jax.tree.unflatten(tree, fresh)


def data(segments):
  rng = np.random.default_rng(1)
  frames = 4 * segments + 1
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return dict(
    latents=draw(BATCH, frames, HEIGHT, WIDTH, 4),
    noise=draw(BATCH, frames, HEIGHT, WIDTH, 4),
    text=draw(BATCH, segments, TEXT, 12),
    timesteps=rng.integers(0, 1000, BATCH),
  )


def check_gathers(program, config, plan, batch):
  """Raises AssertionError if training copies activations to all devices.

  Without `by_batch`, which says how small arrays are split, latents are
  gathered where they are noised and put in order.
  """
  data, features = plan.mesh.shape['data'], 16  # 2 x 2 pixels, 4 channels.
  order = config.order(batch['latents'].shape, batch['text'].shape)
  length = plan.padded(order.length, config.mini_batch)
  weights = plan.sp, config.model_dim // plan.sp, config.model_dim
  shapes = [
    tuple(map(int, found.split(',')))
    for found in re.findall(r'= f32\[([\d,]+)\]\S* all-gather\(', program)
  ]
  # Few features: tokens of the output, and their part that is video.
  tokens = [x for x in shapes if x[0] == BATCH // data and x != weights]
  assert (BATCH // data, length, features) in tokens, shapes
  assert len(tokens) <= 2, tokens
  assert max(map(math.prod, tokens)) <= BATCH // data * length * features
  assert not any({length, config.model_dim} <= set(x) for x in shapes), shapes


def run(config, params, batch, mesh):
  """Loss, gradients, diagnostics and a sample: {quantity: array}."""
  sharding_plan = sharding.ShardingPlan(mesh)
  module = dit.DiffusionTransformer(config, sharding_plan)
  spread = params
  if mesh is not None:
    # For sampling they are split over both axes.
    both = lambda x: sharding.param_sharding(mesh, x, sharding.AXES)
    spread = jax.device_put(params, jax.tree.map(both, params))
    params = jax.device_put(params, sharding.tree_shardings(mesh, params))
    batch = sharding.put_batch(mesh, batch)

  @jax.jit
  def losses(params, batch):
    loss = lambda params: objective.diffusion_loss(
      lambda x, t: module.apply({'params': params}, x, batch['text'], t),
      batch['latents'],
      timesteps=batch['timesteps'],
      noise=batch['noise'],
    )[0]
    return jax.value_and_grad(loss)(params)

  @jax.jit
  def diagnose(params, batch):
    return module.apply(
      {'params': params},
      batch['noise'],
      batch['text'],
      batch['timesteps'].astype(jnp.float32),
      method='diagnostics',
    )

  @jax.jit
  def sample(params, batch):
    apply = functools.partial(module.apply, {'params': params})
    text = batch['text']
    return samplers.ddim(
      guidance.guided(apply, text[:1], text[1:2]),
      batch['noise'][:1],
      sampling_schedule.from_name('diffusers', 3, 1.0),
      np.full(3, 2, np.float32),
      jax.random.key(0),
    )

  compiled = losses.lower(params, batch).compile()
  loss, grads = compiled(params, batch)
  if sharding_plan.sp > 1:
    check_gathers(compiled.as_text(), config, sharding_plan, batch)
  out = dict(loss=loss, sample=sample(spread, batch))
  out |= train_state.flatten(grads) | diagnose(params, batch)
  return jax.device_get(out)


@functools.cache
def one_device(mixer, segments):
  model = config(mixer)
  return run(model, parameters(model), data(segments), None)


@pytest.mark.parametrize(
  'mixer, segments, size',
  [
    ('ttt_linear', 2, 2),
    ('ttt_linear', 2, 1),
    *(
      # As above, on meshes and with a mixer that add nothing of their own.
      pytest.param(*case, marks=pytest.mark.slow)
      for case in [
        ('ttt_linear', 2, 8),
        ('ttt_linear', 2, 4),
        ('ttt_mlp', 3, 8),
        ('ttt_mlp', 3, 4),
        ('ttt_mlp', 3, 2),
        ('ttt_mlp', 3, 1),
        *(
          (name, 2, size)
          for name in mixers.MIXERS
          if name != 'none' and not name.startswith('ttt_')
          for size in (8, 4, 2)
        ),
      ]
    ),
  ],
)
def test_every_mesh_gives_what_one_device_gives(mixer, segments, size):
  want = one_device(mixer, segments)
  model = config(mixer)
  mesh = sharding.make_mesh(dict(data=size, sp=8 // size))
  got = run(model, parameters(model), data(segments), mesh)
  errors = compare.relative_errors(got, want)
  weight = f'layers/seq/{mixers.MIXERS[mixer].scope}/o/kernel'
  assert {'loss', 'sample', weight} <= set(errors)
  assert max(errors.values()) < 1e-5, errors
