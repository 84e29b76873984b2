"""The programs of a run, compiled for chips that are not here."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from launch import hlo
from launch import topology as topology_lib
from ttt_jax import backbones
from ttt_jax import sharding
from ttt_jax.train import objective as objective_lib
from ttt_jax.train import optimizer as optimizer_lib
from ttt_jax.train import state as state_lib
from ttt_jax.train import step as step_lib


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled program.

  Attributes:
    program: its HLO.
    arguments: bytes a chip of what it takes, donated or not.
    results: bytes a chip of what it returns, without donated memory.
    temporaries: bytes a chip while it runs.
    peak: bytes a chip, the most at any moment.
    trace_seconds: Python's part.
    compile_seconds: XLA's part.
  """

  program: hlo.Program
  arguments: int
  results: int
  temporaries: int
  peak: int
  trace_seconds: float
  compile_seconds: float


def make_mesh(
    topology: topology_lib.Topology, mesh: dict[str, int]
) -> jax.sharding.Mesh:
  """The mesh of a config over all chips of a topology."""
  return sharding.make_mesh(mesh, topology.devices())


def abstract_batch(
    config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """A training batch as the loop places it."""
  g, backbone = backbones.geometry(config), backbones.of(config)
  b, where = config.batch_size, sharding.batch_sharding(mesh)
  latents = (b, g.latent_frames, g.latent_height, g.latent_width,
             backbone.in_channels)  # pyformat: disable
  text = (b, g.segments, g.text_length, backbone.text_dim)
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
      state_lib.create, optimizer=optimizer, ema=config.ema_decay > 0
  )
  state = jax.eval_shape(create, params)
  shardings = sharding.tree_shardings(mesh, state)
  state = jax.tree.map(lambda x, s: x.update(sharding=s), state, shardings)
  null_text = np.zeros((config.text.length, backbone.text_dim), np.float32)
  objective = objective_lib.Objective(config, null_text, mesh)
  step = jax.jit(
      step_lib.make_step(
          objective.loss_fn, optimizer, seed=config.seed,
          ema_decay=config.ema_decay, microbatches=config.microbatches,
      ),
      donate_argnums=0,
      out_shardings=(shardings, sharding.replicated(mesh)),
  )  # pyformat: disable
  return step, (state, abstract_batch(config, mesh))


def compile_step(
    config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh
) -> Compiled:
  """Compiles the training step; XLA's out-of-memory error passes through."""
  start = time.perf_counter()
  # Kernels look there for the chip that they are compiled for.
  with jax.set_mesh(mesh):
    step, arguments = train_step(config, mesh)
    lowered = step.lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
  done = time.perf_counter()
  memory = compiled.memory_analysis()
  return Compiled(
      program=hlo.Program(compiled.as_text()),
      arguments=memory.argument_size_in_bytes,
      results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
      temporaries=memory.temp_size_in_bytes,
      peak=memory.peak_memory_in_bytes,
      trace_seconds=traced - start,
      compile_seconds=done - traced,
  )
