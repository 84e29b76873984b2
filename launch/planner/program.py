"""The programs of a run, compiled for chips that are not here."""

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
from ttt_jax.diffusion import schedulers
from ttt_jax.models import dit
from ttt_jax.models.unet3d import unet
from ttt_jax.train import objective as objective_lib
from ttt_jax.train import optimizer as optimizer_lib
from ttt_jax.train import step as step_lib

# The pipeline's default.
SAMPLING_STEPS = 50


def make_mesh(
  topology: topology_lib.Topology, mesh: dict[str, int]
) -> jax.sharding.Mesh:
  """The mesh of a config over all chips of a topology."""
  return sharding.make_mesh(mesh, topology.devices())


def abstract_batch(
  config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """A training batch as the loop places it."""
  b, where = config.batch_size, sharding.batch_sharding(mesh)
  latents, text = ((b, *shape) for shape in _shapes(config))
  struct = functools.partial(jax.ShapeDtypeStruct, sharding=where)
  return dict(
    mean=struct(latents, jnp.float32),
    logvar=struct(latents, jnp.float32),
    text=struct(text, jnp.float32),
    clip=struct((b,), jnp.int32),
  )


def train_step(
  config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh
) -> tuple[Any, tuple[Any, ...]]:
  """The jitted step of `ttt_jax.train` and its abstract arguments."""
  backbone = backbones.of(config)
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
) -> tuple[Any, tuple[Any, ...]]:
  """The jitted sampling of `ttt_jax.pipeline` and its abstract arguments.

  One video with guidance: the network sees two clips, the one with the
  negative texts beside the other. A U-Net edits its one clip, as
  `ttt_jax.pipeline.edit` does.

  Args:
    config: of the stage whose weights sample.
    mesh: over both of whose axes the parameters are split; those of a U-Net
      over `data`.
    steps: of the sampler, a loop in the program.
  """
  if isinstance(backbones.of(config).config, unet.UNet3DConfig):
    return _editing(config, mesh, steps)
  model = dit.DiTConfig(**config.model)
  place = functools.partial(sharding.param_sharding, mesh, axes=sharding.AXES)
  params = jax.tree.map(
    lambda x: x.update(sharding=place(x)),
    jax.eval_shape(
      functools.partial(dit.inference_params, model),
      dit.abstract_params(model),
    ),
  )
  chosen = schedulers.scheduler(config.get('scheduler', schedulers.DEFAULT))
  grid = chosen.grid(steps, config.schedule_shift)
  module = dit.DiffusionTransformer(model, sharding.Layout(mesh))

  def sample(params, noise, text, negative, scales, key):
    apply = functools.partial(module.apply, {'params': params})
    network = guidance.guided(apply, text, negative)
    return chosen.sample(network, noise, grid, scales, key)

  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.jit(sample), (
    params,
    *_sampling_inputs(config, mesh, steps),
    key.update(sharding=sharding.replicated(mesh)),
  )


def _editing(config, mesh, steps):
  """The jitted sampling of `EditPipeline` and its abstract arguments."""
  backbone = backbones.of(config)
  params = jax.tree.map(
    lambda x: x.update(sharding=sharding.param_sharding(mesh, x)),
    backbone.abstract_params(),
  )
  grid = backbones.ddim_grid(config, steps)
  module = backbone.module(sharding.Layout(mesh))

  def sample(params, noise, text, negative, scales):
    apply = functools.partial(module.apply, {'params': params})
    network = inversion.as_velocity(
      guidance.guided(apply, text, negative), backbone.prediction
    )
    return samplers.ddim(network, noise, grid, scales)

  return jax.jit(sample), (params, *_sampling_inputs(config, mesh, steps))


def _sampling_inputs(config, mesh, steps):
  """Noise, text, negative text and guidance of one clip."""
  latents, text = _shapes(config)
  struct = functools.partial(
    jax.ShapeDtypeStruct, sharding=sharding.replicated(mesh)
  )
  return (
    struct((1, *latents), jnp.float32),
    struct((1, *text), jnp.float32),
    struct((1, *text), jnp.float32),
    struct((steps,), jnp.float32),
  )


def _shapes(config):
  """Latents [F, h, w, c] and text [S, L, Dt] of a clip."""
  g, backbone = backbones.geometry(config), backbones.of(config)
  return (
    (g.latent_frames, g.latent_height, g.latent_width, backbone.in_channels),
    (g.segments, g.text_length, backbone.text_dim),
  )
