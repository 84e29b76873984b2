"""Runs a sampler as calls of one compiled step.

The program of one step serves any number of steps, schedule and strength of the
guidance. It has no callback, so JAX keeps it in the cache of compiled programs.
"""

from __future__ import annotations

from collections.abc import Callable
import operator
from typing import Any

import jax
import numpy as np

from ttt_jax import sharding
from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import samplers
from ttt_jax.pipeline import step_callback
from ttt_jax.runtime import schema


def step(
  denoise_fn: guidance.DenoiseFn,
  x: jax.Array,
  previous: jax.Array,
  numbers: samplers.Step,
  noise: jax.Array | None,
  prediction: str = 'v_prediction',
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Takes a step as `samplers.step`, for programs that `run` calls.

  Returns:
    State, denoised estimate, and one number of the state, which is still there
    when the state was given to the next step.
  """
  x, previous = samplers.step(
    denoise_fn, x, previous, numbers, noise, prediction
  )
  return x, previous, x[(0,) * x.ndim]


def check_options(steps: Any, guidance: Any, seed: Any) -> None:
  """Raises ValueError if options of a pipeline have another type or range.

  The range of `steps` depends on the schedule, which checks it.

  Args:
    steps: Sampling steps.
    guidance: Strength of the guidance.
    seed: Seed of the initial noise.
  """
  for name, value, kind in (
    ('steps', steps, int),
    ('guidance', guidance, schema.FiniteFloat),
    ('seed', seed, schema.Seed),
  ):
    plain = value.item() if isinstance(value, np.generic) else value
    schema.convert(plain, kind, name)


def place(
  x: jax.Array | np.ndarray, params: Any, mesh: jax.sharding.Mesh | None
) -> jax.Array:
  """Puts an input of the program where it stays for all steps.

  An initial state elsewhere would make the first step another program than the
  rest, and texts on the host would be copied in every step.

  Args:
    x: State, or the states of texts.
    params: Parameters of the network.
    mesh: Mesh of the program; None is the device of the parameters.
  """
  if mesh is not None:
    return jax.device_put(x, sharding.replicated(mesh))
  leaf = jax.tree.leaves(params)[0]
  device = next(iter(leaf.devices())) if isinstance(leaf, jax.Array) else None
  return jax.device_put(x, device or jax.local_devices()[0])


def run(
  program: Callable[..., tuple[Any, ...]],
  x: jax.Array,
  steps: samplers.Step,
  on_step: step_callback.OnStep | None = None,
  *,
  reuse: int = 1,
  **inputs: Any,
) -> jax.Array:
  """Takes all steps.

  Args:
    program: Compiled function of `x`, `previous`, `numbers` and `inputs`, which
      returns what `step` returns. With `reuse` above 1 it also returns what the
      late blocks added, and takes it as `added` where it is to be reused.
    x: Initial state, where the program returns it; it is given away.
    steps: Numbers of all steps, from `samplers.table`.
    on_step: Function called with the number of steps done.
    reuse: The late blocks are computed in every `reuse`-th step and in the
      last one, see `models.dit.LateBlocks`.
    **inputs: Other arguments of the program.

  Returns:
    The last state, computed.
  """
  previous = 0 * x  # Where `x` is, so that all steps are one program.
  last = None
  count = len(np.asarray(steps.index))
  for i in range(count):
    x, previous, done, *rest = program(
      x=x,
      previous=previous,
      numbers=jax.tree.map(operator.itemgetter(i), steps),
      **inputs,
    )
    if reuse > 1:
      is_new = (i + 1) % reuse == 0 or i + 1 == count - 1
      inputs['added'] = None if is_new else rest[0]
    # The device has the next step before this one is waited for.
    if last is not None and on_step is not None:
      last.block_until_ready()
      on_step(i)
    last = done
  x.block_until_ready()
  if on_step is not None:
    on_step(count)
  return x
