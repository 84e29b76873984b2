"""The grid that Stable Diffusion and Tune-A-Video step along."""

from __future__ import annotations

import functools

import numpy as np

from ttt_jax.diffusion import grid as grid_lib
from ttt_jax.diffusion import schedule

SamplingGrid = grid_lib.SamplingGrid


def leading_grid(
  steps: int = 50, *, offset: int = 1, ends_clean: bool = False
) -> SamplingGrid:
  """Returns "leading" timesteps on the table of 1000, not rescaled.

  Multiples of 1000 // steps, plus the offset: diffusers' DDIM as Stable
  Diffusion configures it. The levels are those of CogVideoX before its
  rescale, and the first state is not pure noise.

  Args:
    steps: n. Equal arguments give the same object.
    offset: added to every timestep, steps_offset in diffusers.
    ends_clean: the last state has no noise, set_alpha_to_one in diffusers;
      else the noise of timestep 0.

  Raises:
    ValueError: steps that do not leave the last timestep below 1000.
  """
  grid_lib.check_steps(steps)
  if (steps - 1) * (schedule.TIMESTEPS // steps) + offset >= schedule.TIMESTEPS:
    raise ValueError(
      f'{steps} steps from timestep {offset} on go beyond'
      f' {schedule.TIMESTEPS - 1}: use fewer, e.g. 50'
    )
  return _build(int(steps), int(offset), bool(ends_clean))


@functools.cache
def _build(steps, offset, ends_clean):
  table = schedule.raw_schedule()
  stride = schedule.TIMESTEPS // steps
  timesteps = np.arange(steps)[::-1] * stride + offset
  ends = timesteps - stride
  return SamplingGrid(
    'leading',
    timesteps.astype(np.float32),
    table[timesteps],
    np.where(ends < 0, 1.0 if ends_clean else table[0], table[ends]),
    table[timesteps],
  )
