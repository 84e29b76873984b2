"""The compiled step of a storyboard's sampler.

One step is one program, for any number of steps, scheduler and strength of the
guidance. Without callbacks, it is kept in the cache of compiled programs.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import jax

from ttt_jax import sharding
from ttt_jax.diffusion import guidance as guidance_lib
from ttt_jax.diffusion import samplers
from ttt_jax.models import dit
from ttt_jax.pipeline import sampling_loop
from ttt_jax.runtime import schema


class SamplingProgram:
  """A step for `sampling_loop.run`, compiled once per shape.

  Attributes:
    step: Jitted function of the parameters and, by name, of x, previous,
      numbers, text, negative, key and is_noisy.
    reusing_step: The same; it also takes `added`, what the late blocks added
      in an earlier step, or None to compute it, and returns it last.
  """

  def __init__(self, config: dit.DiTConfig, mesh: jax.sharding.Mesh | None):
    """Prepares the programs; nothing is compiled yet.

    Args:
      config: Config of the transformer.
      mesh: Mesh over which the transformer is split; None is the first device.
    """
    self._config = config
    self._plan = sharding.ShardingPlan(mesh)
    compiled = functools.partial(
      jax.jit,
      static_argnames='is_noisy',
      donate_argnames=('x', 'previous'),
      compiler_options=sharding.sampling_options(mesh),
    )
    shared = mesh and sharding.replicated(mesh)
    self.step = compiled(self._sampling_step, out_shardings=shared)
    # The output of the late blocks stays on the devices of its tokens.
    self.reusing_step = compiled(
      self._sampling_step_with_reuse,
      out_shardings=mesh and (shared, shared, shared, None),
    )

  def choose(self, reuse: int) -> Any:
    """Returns the jitted function for a value of `reuse`.

    Raises:
      ValueError: the value is not positive, or there is nothing to reuse.
    """
    schema.convert(reuse, schema.PositiveInt, 'reuse')
    if reuse == 1:
      return self.step
    dit.LateBlocks(self._config)
    return self.reusing_step

  def _sampling_step(
    self, params, x, previous, numbers, text, negative, key, *, is_noisy
  ):
    module = dit.DiffusionTransformer(self._config, self._plan)
    apply = functools.partial(module.apply, {'params': params})
    return self._take_step(
      apply, x, previous, numbers, text, negative, key, is_noisy
    )

  def _sampling_step_with_reuse(
    self,
    params,
    x,
    previous,
    numbers,
    text,
    negative,
    key,
    added=None,
    *,
    is_noisy,
  ):
    late_blocks = dit.LateBlocks(self._config, self._plan)

    def apply(*inputs):
      nonlocal added
      if added is not None:
        return late_blocks.reuse(params, *inputs, added=added)
      prediction, added = late_blocks.compute(params, *inputs)
      return prediction

    done = self._take_step(
      apply, x, previous, numbers, text, negative, key, is_noisy
    )
    return (*done, added)

  def _take_step(
    self,
    apply: Callable[..., Any],
    x,
    previous,
    numbers,
    text,
    negative,
    key,
    is_noisy,
  ):
    noise = samplers.step_noise_of(key, numbers.index, x) if is_noisy else None
    return sampling_loop.step(
      guidance_lib.guided(apply, text, negative),
      x,
      previous,
      numbers,
      noise,
      self._config.prediction,
    )
