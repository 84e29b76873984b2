"""Which noise levels a sampler visits: host tables in float64.

Three grids differ in ways that change numbers: `diffusers` (the default) takes
its levels from one table of 1000, as the released CogVideoX schedulers do;
`reference` repeats what the paper's sampler does, see `_reference`; `leading`
is Stable Diffusion's and Tune-A-Video's, see `leading_grid`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools

import numpy as np

from ttt_jax.diffusion import schedule


@dataclasses.dataclass(frozen=True, eq=False)
class SamplingSchedule:
  """The levels of one sampling run, noisiest first.

  Compares and hashes by identity: `sampling_grid` returns the same object for
  the same arguments, so that a grid can be a static argument of `jax.jit`.

  Attributes:
    name: 'diffusers', 'reference' or 'leading'.
    timesteps: what the network is told, float32 [n].
    alpha: sqrt(alpha_bar) of the state that each step begins with, float64
      [n]; the first is 0 (noise).
    next_alpha: of the state that it makes, float64 [n].
    denoiser_alpha: the a of D = a x - sqrt(1 - a^2) v, float64 [n].
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
    return len(self.timesteps)


def check_steps(steps: int) -> None:
  """Raises ValueError unless 1 <= steps <= 1000."""
  if not 1 <= steps <= schedule.TIMESTEPS:
    raise ValueError(
      f'{steps} sampling steps: must be 1 to {schedule.TIMESTEPS}, e.g. 50'
    )


def reference_timesteps(steps: int) -> np.ndarray:
  """Timesteps of the paper's sampler, noisiest first, int64 [steps]."""
  check_steps(steps)
  last = schedule.TIMESTEPS - 1
  return np.linspace(last, 0, steps, endpoint=False).astype(np.int64)


def _diffusers(steps: int, shift: float) -> SamplingSchedule:
  """Trailing timesteps on the table of 1000, as diffusers steps along them.

  A step goes from t to t - 1000 // steps. Where `steps` divides 1000 that is
  where the next one starts. Elsewhere diffusers' levels miss each other by a
  timestep, and the last state may be one short of clean: so do ours.
  """
  spacing = schedule.TIMESTEPS / steps
  timesteps = (
    np.round(schedule.TIMESTEPS - spacing * np.arange(steps)).astype(np.int64)
    - 1
  )
  table = schedule.rescale_zero_terminal_snr(
    schedule.scaled_linear_alphas(shift=shift)
  )
  ends = timesteps - schedule.TIMESTEPS // steps
  return SamplingSchedule(
    'diffusers',
    timesteps.astype(np.float32),
    table[timesteps],
    np.where(ends < 0, 1.0, table[ends]),
    table[timesteps],
  )


def _reference(steps: int, shift: float) -> SamplingSchedule:
  """The paper's sampler: to replay its trajectories, not to be preferred.

  The zero-SNR rescale uses the end points of the visited subset, so the same
  timestep has other levels for other step counts; and the denoiser takes the
  nearest level of the unshifted table of 1000, whatever the shift.
  """
  if steps < 2:
    raise ValueError(
      f"{steps} sampling steps: the 'reference' grid rescales on its own end"
      f" points and needs 2 to {schedule.TIMESTEPS}; the 'diffusers' grid"
      ' takes 1'
    )
  timesteps = reference_timesteps(steps)
  subset = schedule.scaled_linear_alphas(shift=shift)[timesteps]
  alpha = schedule.rescale_zero_terminal_snr(subset[::-1])[::-1]
  table = schedule.rescale_zero_terminal_snr(schedule.scaled_linear_alphas())
  nearest = np.abs(alpha[:, None] - table).argmin(axis=1)
  return SamplingSchedule(
    'reference',
    timesteps.astype(np.float32),
    alpha,
    np.append(alpha[1:], 1.0),
    table[nearest],
  )


GRIDS: dict[str, Callable[[int, float], SamplingSchedule]] = {
  'diffusers': _diffusers,
  'reference': _reference,
}


@functools.cache
def _build(name: str, steps: int, shift: float) -> SamplingSchedule:
  return GRIDS[name](steps, shift)


def from_name(
  name: str = 'diffusers', steps: int = 50, shift: float = 1.0
) -> SamplingSchedule:
  """Returns the grid `name` of `steps` levels; equal arguments, same object.

  Raises:
    ValueError: an unknown name, steps outside 1 to 1000, or a bad shift.
  """
  if name not in GRIDS:
    raise ValueError(
      f'unknown sampling grid {name!r}: must be one of {sorted(GRIDS)}'
    )
  check_steps(steps)
  return _build(name, int(steps), float(shift))


def leading(
  steps: int = 50, *, offset: int = 1, ends_clean: bool = False
) -> SamplingSchedule:
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
  check_steps(steps)
  if (steps - 1) * (schedule.TIMESTEPS // steps) + offset >= schedule.TIMESTEPS:
    raise ValueError(
      f'{steps} steps from timestep {offset} on go beyond'
      f' {schedule.TIMESTEPS - 1}: use fewer, e.g. 50'
    )
  return _build_leading(int(steps), int(offset), bool(ends_clean))


@functools.cache
def _build_leading(steps, offset, ends_clean):
  table = schedule.scaled_linear_alphas()
  stride = schedule.TIMESTEPS // steps
  timesteps = np.arange(steps)[::-1] * stride + offset
  ends = timesteps - stride
  return SamplingSchedule(
    'leading',
    timesteps.astype(np.float32),
    table[timesteps],
    np.where(ends < 0, 1.0 if ends_clean else table[0], table[ends]),
    table[timesteps],
  )
