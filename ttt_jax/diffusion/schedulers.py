"""Samplers by scheduler name: a sampling function with its schedule.

cogvideox_dpm    diffusers' CogVideoXDPMScheduler, shipped with 5B
cogvideox_ddim   diffusers' CogVideoXDDIMScheduler, shipped with 2B
reference        the sampler of the paper's code, with its own levels
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from ttt_jax.diffusion import samplers
from ttt_jax.diffusion import sampling_schedule

DEFAULT = 'cogvideox_dpm'


@dataclasses.dataclass(frozen=True)
class SamplerSpec:
  """A sampling function, its coefficients and the name of its schedule.

  Attributes:
    sample: Sampling function such as `samplers.dpmpp_2m_sde`.
    coefficients: Function of a schedule that returns `samplers.Coefficients`.
    levels: Name of its sampling schedule.
  """

  sample: Callable
  coefficients: Callable[
    [sampling_schedule.SamplingSchedule], samplers.Coefficients
  ]
  levels: str

  def schedule(
    self, steps: int, shift: float
  ) -> sampling_schedule.SamplingSchedule:
    """Returns the schedule of `sample`, see `sampling_schedule.from_name`."""
    return sampling_schedule.from_name(self.levels, steps, shift)


_DPM = samplers.dpmpp_2m_sde, samplers.dpmpp_2m_sde_coefficients
_DDIM = samplers.ddim, samplers.ddim_coefficients
SCHEDULERS = {
  'cogvideox_dpm': SamplerSpec(*_DPM, levels='diffusers'),
  'cogvideox_ddim': SamplerSpec(*_DDIM, levels='diffusers'),
  'reference': SamplerSpec(*_DPM, levels='reference'),
}


def scheduler(name: str) -> SamplerSpec:
  """Returns the sampler of a scheduler.

  Args:
    name: One of `SCHEDULERS`.

  Raises:
    ValueError: the name is unknown; the message lists the valid names.
  """
  if name not in SCHEDULERS:
    raise ValueError(
      f'unknown scheduler {name!r}; expected one of {", ".join(SCHEDULERS)}'
    )
  return SCHEDULERS[name]
