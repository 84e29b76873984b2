"""Schedulers by name: which steps a sampler takes, and along which levels.

cogvideox_dpm    diffusers' CogVideoXDPMScheduler, what 5B ships with
cogvideox_ddim   diffusers' CogVideoXDDIMScheduler, what 2B ships with
reference        the sampler of the paper's code, on its own levels
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from ttt_jax.diffusion import grid as grid_lib
from ttt_jax.diffusion import samplers

DEFAULT = 'cogvideox_dpm'


@dataclasses.dataclass(frozen=True)
class Scheduler:
  """One way from noise to latents.

  Attributes:
    sample: such as `samplers.dpmpp_2m_sde`, on a grid of `grid`.
    levels: name of its grid.
  """

  sample: Callable
  levels: str

  def grid(self, steps: int, shift: float) -> grid_lib.SamplingGrid:
    """As `grid.sampling_grid`."""
    return grid_lib.sampling_grid(self.levels, steps, shift)


SCHEDULERS = {
  'cogvideox_dpm': Scheduler(samplers.dpmpp_2m_sde, 'diffusers'),
  'cogvideox_ddim': Scheduler(samplers.ddim, 'diffusers'),
  'reference': Scheduler(samplers.dpmpp_2m_sde, 'reference'),
}


def scheduler(name: str) -> Scheduler:
  """Returns the scheduler `name`; ValueError lists the legal names."""
  if name not in SCHEDULERS:
    raise ValueError(
      f'unknown scheduler {name!r}: must be one of {", ".join(SCHEDULERS)}'
    )
  return SCHEDULERS[name]
