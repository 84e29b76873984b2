"""Schedulers by name: which steps a sampler takes, and along which levels.

cogvideox_dpm    diffusers' CogVideoXDPMScheduler, what 5B ships with
cogvideox_ddim   diffusers' CogVideoXDDIMScheduler, what 2B ships with
reference        the sampler of the paper's code, on its own levels
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from ttt_jax.diffusion import samplers
from ttt_jax.diffusion import sampling_schedule

DEFAULT = 'cogvideox_dpm'


@dataclasses.dataclass(frozen=True)
class SamplerSpec:
  """One way from noise to latents.

  Attributes:
    sample: such as `samplers.dpmpp_2m_sde`, on a grid of `grid`.
    levels: name of its grid.
  """

  sample: Callable
  levels: str

  def grid(
    self, steps: int, shift: float
  ) -> sampling_schedule.SamplingSchedule:
    """As `grid.sampling_grid`."""
    return sampling_schedule.from_name(self.levels, steps, shift)


SCHEDULERS = {
  'cogvideox_dpm': SamplerSpec(samplers.dpmpp_2m_sde, 'diffusers'),
  'cogvideox_ddim': SamplerSpec(samplers.ddim, 'diffusers'),
  'reference': SamplerSpec(samplers.dpmpp_2m_sde, 'reference'),
}


def scheduler(name: str) -> SamplerSpec:
  """Returns the scheduler `name`; ValueError lists the legal names."""
  if name not in SCHEDULERS:
    raise ValueError(
      f'unknown scheduler {name!r}: must be one of {", ".join(SCHEDULERS)}'
    )
  return SCHEDULERS[name]
