"""Sampling schedules: the noise levels that a sampler visits, in float64.

Three of them differ in ways that change numbers. `diffusers` (the default)
takes its levels from one table of 1000, as the released CogVideoX schedulers
do. `reference` repeats the paper's sampler, see `_reference`. `leading` is the
one of Stable Diffusion and Tune-A-Video.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import numpy as np

from ttt_jax.diffusion import schedule as schedule_lib


@dataclasses.dataclass(frozen=True, eq=False)
class SamplingSchedule:
  """Noise levels of one sampling run, noisiest first.

  Compares and hashes by identity: `from_name` and `leading` return the same
  object for equal arguments, so that a schedule can be a static argument of
  `jax.jit`.

  Attributes:
    name: 'diffusers', 'reference' or 'leading'.
    timesteps: Timesteps that the network receives, float32 [n].
    alpha: sqrt(alpha_bar) of the state before each step, float64 [n]; 0 is pure
      noise.
    next_alpha: sqrt(alpha_bar) of the state after each step, float64 [n].
    denoiser_alpha: sqrt(alpha_bar) with which a step computes x0 from v,
      float64 [n].
  """

  name: str
  timesteps: np.ndarray
  alpha: np.ndarray
  next_alpha: np.ndarray
  denoiser_alpha: np.ndarray

  def __post_init__(self):
    for field in dataclasses.fields(self)[1:]:
      getattr(self, field.name).setflags(write=False)

  @property
  def steps(self) -> int:
    """Number of steps, n."""
    return len(self.timesteps)

  def check_scales(self, scales: Any) -> None:
    """Raises ValueError unless there is one guidance strength per step."""
    if np.shape(scales) != (self.steps,):
      raise ValueError(
        f'guidance scales of shape {np.shape(scales)} for {self.steps} sampling'
        f' steps: must be ({self.steps},)'
      )


def check_steps(steps: int) -> None:
  """Raises ValueError unless 1 <= steps <= 1000."""
  if not 1 <= steps <= schedule_lib.TIMESTEPS:
    raise ValueError(
      f'steps is {steps}; expected a whole number from 1 to'
      f' {schedule_lib.TIMESTEPS}, for example 50'
    )


def reference_timesteps(steps: int) -> np.ndarray:
  """Returns the timesteps of the paper's sampler, noisiest first, int64 [n]."""
  check_steps(steps)
  last = schedule_lib.TIMESTEPS - 1
  return np.linspace(last, 0, steps, endpoint=False).astype(np.int64)


def _diffusers(steps: int, shift: float) -> SamplingSchedule:
  """Returns trailing timesteps on the table of 1000, as in diffusers.

  A step goes from t to t - 1000 // steps. If `steps` divides 1000, the next
  step starts there. Otherwise diffusers' steps start one timestep off the end
  of the previous one and the last state may not be completely clean; this is
  kept.
  """
  spacing = schedule_lib.TIMESTEPS / steps
  timesteps = (
    np.round(schedule_lib.TIMESTEPS - spacing * np.arange(steps)).astype(
      np.int64
    )
    - 1
  )
  table = schedule_lib.rescale_zero_terminal_snr(
    schedule_lib.scaled_linear_alphas(shift=shift)
  )
  ends = timesteps - schedule_lib.TIMESTEPS // steps
  return SamplingSchedule(
    name='diffusers',
    timesteps=timesteps.astype(np.float32),
    alpha=table[timesteps],
    next_alpha=np.where(ends < 0, 1.0, table[ends]),
    denoiser_alpha=table[timesteps],
  )


def _reference(steps: int, shift: float) -> SamplingSchedule:
  """Returns the levels of the paper's sampler, to replay its trajectories.

  The zero-SNR rescale uses the end points of the visited subset, so that the
  level of a timestep depends on the number of steps. The denoiser takes the
  nearest level of the table of 1000 without shift, for any shift.
  """
  if steps < 2:
    raise ValueError(
      f"{steps} sampling steps: the 'reference' schedule rescales on its own"
      f" end points and needs 2 to {schedule_lib.TIMESTEPS}; the 'diffusers'"
      ' schedule takes 1'
    )
  timesteps = reference_timesteps(steps)
  subset = schedule_lib.scaled_linear_alphas(shift=shift)[timesteps]
  alpha = schedule_lib.rescale_zero_terminal_snr(subset[::-1])[::-1]
  table = schedule_lib.rescale_zero_terminal_snr(
    schedule_lib.scaled_linear_alphas()
  )
  nearest = np.abs(alpha[:, None] - table).argmin(axis=1)
  return SamplingSchedule(
    name='reference',
    timesteps=timesteps.astype(np.float32),
    alpha=alpha,
    next_alpha=np.append(alpha[1:], 1.0),
    denoiser_alpha=table[nearest],
  )


SCHEDULES: dict[str, Callable[[int, float], SamplingSchedule]] = {
  'diffusers': _diffusers,
  'reference': _reference,
}


@functools.cache
def _build(name: str, steps: int, shift: float) -> SamplingSchedule:
  return SCHEDULES[name](steps, shift)


def from_name(
  name: str = 'diffusers', steps: int = 50, shift: float = 1.0
) -> SamplingSchedule:
  """Returns the schedule `name`; the same object for equal arguments.

  Args:
    name: 'diffusers' or 'reference'.
    steps: Number of steps, n.
    shift: Shift of the noise schedule, see `schedule.scaled_linear_alphas`.

  Raises:
    ValueError: the name is unknown, steps are not in 1 to 1000, or the shift is
      not positive.
  """
  if name not in SCHEDULES:
    raise ValueError(
      f'unknown sampling schedule {name!r}; expected one of'
      f' {", ".join(SCHEDULES)}'
    )
  check_steps(steps)
  return _build(name, steps, float(shift))


def leading(
  steps: int = 50, *, offset: int = 1, ends_clean: bool = False
) -> SamplingSchedule:
  """Returns "leading" timesteps on the table of 1000, not rescaled.

  The timesteps are multiples of 1000 // steps plus an offset, as in diffusers'
  DDIM with Stable Diffusion's config. The levels are CogVideoX's before the
  rescale, so that the first state is not pure noise.

  Args:
    steps: Number of steps, n. Equal arguments give the same object.
    offset: Offset of every timestep, `steps_offset` in diffusers.
    ends_clean: Whether the last state is clean, `set_alpha_to_one` in
      diffusers; otherwise it has the noise of timestep 0.

  Raises:
    ValueError: a timestep would exceed 999.
  """
  check_steps(steps)
  last = schedule_lib.TIMESTEPS - 1
  if (steps - 1) * (schedule_lib.TIMESTEPS // steps) + offset > last:
    raise ValueError(
      f'{steps} steps from timestep {offset} on exceed timestep {last}: use'
      ' fewer, e.g. 50'
    )
  return _build_leading(steps, offset, ends_clean)


@functools.cache
def _build_leading(steps, offset, ends_clean):
  table = schedule_lib.scaled_linear_alphas()
  stride = schedule_lib.TIMESTEPS // steps
  timesteps = np.arange(steps)[::-1] * stride + offset
  ends = timesteps - stride
  return SamplingSchedule(
    name='leading',
    timesteps=timesteps.astype(np.float32),
    alpha=table[timesteps],
    next_alpha=np.where(ends < 0, 1.0 if ends_clean else table[0], table[ends]),
    denoiser_alpha=table[timesteps],
  )
