"""The jitted programs of a run with abstract arguments, to be compiled."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from launch import topology as topology_lib
from ttt_jax import backbones
from ttt_jax import sharding
from ttt_jax.checkpoints import train_state as state_lib
from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import inversion
from ttt_jax.diffusion import samplers
from ttt_jax.diffusion import schedule as schedule_lib
from ttt_jax.diffusion import schedulers
from ttt_jax.models import dit
from ttt_jax.models.unet3d import unet
from ttt_jax.train import objective as objective_lib
from ttt_jax.train import optimizer as optimizer_lib
from ttt_jax.train import step as step_lib

# Default of the pipeline.
SAMPLING_STEPS = 50


def make_mesh(
  topology: topology_lib.Topology, mesh: dict[str, int]
) -> jax.sharding.Mesh:
  """Returns the mesh of a config over all chips of a topology."""
  return sharding.make_mesh(mesh, topology.devices())


def abstract_batch(
  config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns a training batch with the shardings of the training loop."""
  b = config.batch_size
  latents, text = ((b, *shape) for shape in clip_shapes(config))
  struct = functools.partial(
    jax.ShapeDtypeStruct, sharding=sharding.batch_sharding(mesh)
  )
  return dict(
    mean=struct(latents, jnp.float32),
    logvar=struct(latents, jnp.float32),
    text=struct(text, jnp.float32),
    clip=struct((b,), jnp.int32),
  )


def train_step(
  config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh
) -> tuple[Any, tuple[Any, ...]]:
  """Returns the step of `ttt_jax.train` and its abstract arguments."""
  backbone = backbones.from_config(config)
  params = backbone.abstract_params()
  optimizer = optimizer_lib.make_optimizer(
    config.optimizer, params, config.steps
  )
  create = functools.partial(
    state_lib.create,
    tx=optimizer.tx,
    trainable=optimizer.trainable,
    ema=config.ema_decay > 0,
  )
  state = jax.eval_shape(create, params)
  shardings = sharding.tree_shardings(mesh, state)
  state = jax.tree.map(lambda x, s: x.update(sharding=s), state, shardings)
  null_text = np.zeros((config.text.length, backbone.text_dim), np.float32)
  objective = objective_lib.Objective(config, null_text, mesh)
  step = jax.jit(
    step_lib.make_step(
      objective.loss_fn,
      optimizer,
      seed=config.seed,
      ema_decay=config.ema_decay,
      microbatches=config.microbatches,
    ),
    donate_argnums=0,
    out_shardings=(shardings, sharding.replicated(mesh)),
  )
  return step, (state, abstract_batch(config, mesh))


def sampling(
  config: ml_collections.ConfigDict,
  mesh: jax.sharding.Mesh,
  steps: int = SAMPLING_STEPS,
  memory: float | None = None,
) -> tuple[Any, tuple[Any, ...]]:
  """Returns the sampling of `ttt_jax.pipeline` and its abstract arguments.

  It samples one video with guidance: the network receives two clips, one with
  the texts and one with the negative texts. A U-Net edits its one clip, as in
  `ttt_jax.pipeline.edit`.

  Args:
    config: config of the stage whose weights are used.
    mesh: mesh; parameters are placed by `sharding.sampling_shardings`, those
      of a U-Net are split over `data`.
    steps: steps of the sampler, which the program executes in a loop.
    memory: bytes of a device's memory; None if they are not known.
  """
  if isinstance(backbones.from_config(config).config, unet.UNet3DConfig):
    return _editing(config, mesh, steps)
  model = dit.DiTConfig(**config.model)
  params = jax.eval_shape(
    functools.partial(dit.inference_params, model), dit.abstract_params(model)
  )
  params = jax.tree.map(
    lambda x, s: x.update(sharding=s),
    params,
    sharding.sampling_shardings(mesh, params, memory),
  )
  sampler = schedulers.scheduler(config.get('scheduler') or schedulers.DEFAULT)
  schedule = sampler.schedule(steps, config.schedule_shift)
  module = dit.DiffusionTransformer(model, sharding.ShardingPlan(mesh))

  def sample(params, noise, text, negative, scales, key):
    apply: Any = functools.partial(module.apply, {'params': params})
    denoise_fn = inversion.as_velocity(
      guidance.guided(apply, text, negative),
      model.prediction,
      schedule_lib.zero_snr_schedule(shift=config.schedule_shift),
    )
    return sampler.sample(denoise_fn, noise, schedule, scales, key)

  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.jit(sample), (
    params,
    *_sampling_inputs(config, mesh, steps),
    key.update(sharding=sharding.replicated(mesh)),
  )


def _editing(config, mesh, steps):
  """Returns the sampling of `EditPipeline` and its abstract arguments."""
  backbone = backbones.from_config(config)
  params = jax.tree.map(
    lambda x: x.update(sharding=sharding.param_sharding(mesh, x)),
    backbone.abstract_params(),
  )
  schedule = backbones.ddim_schedule(config, steps)
  module = backbone.module(sharding.ShardingPlan(mesh))

  def sample(params, noise, text, negative, scales):
    apply: Any = functools.partial(module.apply, {'params': params})
    denoise_fn = inversion.as_velocity(
      guidance.guided(apply, text, negative),
      backbone.prediction,
      backbone.schedule,
    )
    return samplers.ddim(denoise_fn, noise, schedule, scales)

  return jax.jit(sample), (params, *_sampling_inputs(config, mesh, steps))


def _sampling_inputs(config, mesh, steps):
  """Returns noise, text, negative text and guidance scales of one clip."""
  latents, text = clip_shapes(config)
  struct = functools.partial(
    jax.ShapeDtypeStruct, sharding=sharding.replicated(mesh)
  )
  return (
    struct((1, *latents), jnp.float32),
    struct((1, *text), jnp.float32),
    struct((1, *text), jnp.float32),
    struct((steps,), jnp.float32),
  )


def clip_shapes(
  config: ml_collections.ConfigDict,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns the shapes of latents [F, h, w, c] and text [S, L, Dt]."""
  g, backbone = backbones.geometry(config), backbones.from_config(config)
  return (
    (g.latent_frames, g.latent_height, g.latent_width, backbone.in_channels),
    (g.segments, g.text_length, backbone.text_dim),
  )
