"""Samplers: map noise to latents along a schedule.

`dpmpp_2m_sde` and `ddim` are one `jax.lax.scan`; with `table` and `step` the
steps can be separate calls of one compiled program, which does not depend on
their number, the schedule or the sampler.

Both samplers are linear in their inputs. Each is therefore a table of
coefficients, computed on the host in float64:

  x' = state x + x0 x0_hat + previous x0_prev + noise z

x0_hat = alpha x - sigma v is the denoised estimate of this step, x0_prev that
of the previous step, and z is standard normal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import noise as noise_lib
from ttt_jax.diffusion.sampling_schedule import SamplingSchedule

OnStep = Callable[[int], None]


class Coefficients(NamedTuple):
  """Coefficients of the update above, each float64 [n]."""

  state: np.ndarray
  x0: np.ndarray
  previous: np.ndarray
  noise: np.ndarray


class Step(NamedTuple):
  """Numbers of all steps, each [n], or of one step.

  Attributes:
    index: Index, counted from 0.
    timestep: Timestep of the network.
    scale: Strength of the guidance.
    alpha: Signal at the network's input.
    sigma: Noise at the network's input.
    coefficients: Coefficients of the update.
  """

  index: jax.typing.ArrayLike
  timestep: jax.typing.ArrayLike
  scale: jax.typing.ArrayLike
  alpha: jax.typing.ArrayLike
  sigma: jax.typing.ArrayLike
  coefficients: Coefficients


class Trajectory(NamedTuple):
  """All steps of a run, each [n, B, F, h, w, c]; states[-1] is the result."""

  states: jax.Array
  denoised: jax.Array


def report_step(on_step: OnStep | None, i: jax.Array, x: jax.Array) -> None:
  """Calls `on_step` with i on the host once x is computed."""
  if on_step is not None:
    # One element of the result makes the call wait for the step.
    jax.debug.callback(lambda i, _: on_step(int(i)), i, x[(0,) * x.ndim])


def _levels(schedule: SamplingSchedule) -> tuple[np.ndarray, ...]:
  """Returns alpha and sigma before, then after, each step."""
  alpha, next_alpha = schedule.alpha, schedule.next_alpha
  return alpha, np.sqrt(1 - alpha**2), next_alpha, np.sqrt(1 - next_alpha**2)


def dpmpp_2m_sde_coefficients(schedule: SamplingSchedule) -> Coefficients:
  """Returns DPM-Solver++ (Lu et al. 2022, 2M SDE), exponentials as ratios.

  With lambda = log(alpha / sigma) and h = lambda' - lambda, the ratio e^-h =
  alpha sigma' / (alpha' sigma) is finite at both ends, where lambda is not.
  """
  alpha, sigma, next_alpha, next_sigma = _levels(schedule)
  decay = alpha * next_sigma / (next_alpha * sigma)
  x0 = next_alpha * (1 - decay**2)
  # Weight h / (2 h_prev) of the extrapolation from x0_prev to x0_hat; h_prev is
  # h of the previous step. It is zero, so that the step is first order, for
  # steps that touch an infinite lambda (from pure noise, to the clean end) and
  # for the step after the first.
  order = np.zeros(schedule.steps)
  second = np.flatnonzero(next_alpha < 1)[2:]
  previous_decay = (
    alpha[second - 1] * sigma[second] / (alpha[second] * sigma[second - 1])
  )
  order[second] = np.log(decay[second]) / (2 * np.log(previous_decay))
  return Coefficients(
    state=next_sigma / sigma * decay,
    x0=x0 * (1 + order),
    previous=-x0 * order,
    noise=next_sigma * np.sqrt(1 - decay**2),
  )


def ddim_coefficients(
  schedule: SamplingSchedule, eta: float = 0.0
) -> Coefficients:
  """Returns DDIM (Song et al. 2021), eq. 12 and 16."""
  alpha, sigma, next_alpha, next_sigma = _levels(schedule)
  noise = eta * next_sigma / sigma * np.sqrt(1 - (alpha / next_alpha) ** 2)
  state = np.sqrt(next_sigma**2 - noise**2) / sigma
  return Coefficients(
    state=state,
    x0=next_alpha - alpha * state,
    previous=np.zeros(schedule.steps),
    noise=noise,
  )


def table(
  schedule: SamplingSchedule,
  scales: np.ndarray | jax.Array,
  coefficients: Coefficients,
  dtype: jax.typing.DTypeLike = np.float32,
) -> Step:
  """Returns the numbers of all steps, to be split by `jax.tree.map`.

  Args:
    schedule: Schedule of n steps.
    scales: Guidance strength by step, [n].
    coefficients: Coefficients of a sampler for this schedule.
    dtype: Dtype of the computation.

  Raises:
    ValueError: the scales do not fit the schedule.
  """
  schedule.check_scales(scales)
  alpha = schedule.denoiser_alpha
  cast = lambda values: np.asarray(values, dtype)
  return Step(
    index=np.arange(schedule.steps, dtype=np.int32),
    timestep=np.asarray(schedule.timesteps, np.float32),
    scale=scales.astype(dtype),
    alpha=cast(alpha),
    sigma=cast(np.sqrt(1 - alpha**2)),
    coefficients=jax.tree.map(cast, coefficients),
  )


def step(
  denoise_fn: guidance.DenoiseFn,
  x: jax.Array,
  previous: jax.Array,
  numbers: Step,
  noise: jax.Array | None,
  prediction: str = 'v_prediction',
) -> tuple[jax.Array, jax.Array]:
  """Takes one step.

  Args:
    denoise_fn: As for `dpmpp_2m_sde`.
    x: State [B, F, h, w, c], at least float32.
    previous: Denoised estimate of the previous step; zeros at the first one.
    numbers: Numbers of this step.
    noise: Standard normal, like `x`; None if the sampler adds no noise.
    prediction: Output of `denoise_fn`, 'v_prediction' or 'sample'.

  Returns:
    The next state, and the denoised estimate.
  """
  n: Any = jax.tree.map(jnp.asarray, numbers)
  c = n.coefficients
  times = jnp.full(x.shape[:1], n.timestep)
  x0 = denoise_fn(x, times, n.scale).astype(x.dtype)
  if prediction == 'v_prediction':
    x0 = n.alpha * x - n.sigma * x0
  new = c.state * x + c.x0 * x0 + c.previous * previous
  if noise is not None:
    new += c.noise * noise
  return new, x0


def step_noise_of(
  key: jax.Array, index: jax.typing.ArrayLike, x: jax.Array
) -> jax.Array:
  """Returns the noise that the step with this index adds to `x`."""
  return noise_lib.normal(jax.random.fold_in(key, index), x.shape, x.dtype)


def _run(
  denoise_fn: guidance.DenoiseFn,
  x: jax.Array,
  schedule: SamplingSchedule,
  scales: np.ndarray | jax.Array,
  coefficients: Coefficients,
  key: jax.Array | None,
  step_noise: jax.Array | None,
  trajectory: bool,
  on_step: OnStep | None,
) -> jax.Array | Trajectory:
  """Scans the update over the schedule; arguments as for `dpmpp_2m_sde`."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  numbers = table(schedule, scales, coefficients, x.dtype)
  noisy = bool(np.any(coefficients.noise))
  if noisy and key is None and step_noise is None:
    raise ValueError(
      'this sampler adds noise at each step: give key=, e.g. jax.random.key(0)'
    )
  if step_noise is not None and step_noise.shape != (schedule.steps, *x.shape):
    raise ValueError(
      f'step noise of shape {step_noise.shape}: must be'
      f' {(schedule.steps, *x.shape)}'
    )

  def one_step(carry, inputs):
    x, previous = carry
    numbers, z = inputs
    if noisy and z is None:
      assert key is not None
      z = step_noise_of(key, numbers.index, x)
    new, x0 = step(denoise_fn, x, previous, numbers, z if noisy else None)
    report_step(on_step, numbers.index, new)
    return (new, x0), Trajectory(new, x0) if trajectory else None

  noises = None if step_noise is None else jnp.asarray(step_noise, x.dtype)
  (x, _), steps = jax.lax.scan(
    one_step, (x, jnp.zeros_like(x)), (numbers, noises)
  )
  return x if steps is None else steps


def dpmpp_2m_sde(
  denoise_fn: guidance.DenoiseFn,
  noise: jax.Array,
  schedule: SamplingSchedule,
  scales: np.ndarray | jax.Array,
  key: jax.Array | None = None,
  *,
  step_noise: jax.Array | None = None,
  trajectory: bool = False,
  on_step: OnStep | None = None,
) -> jax.Array | Trajectory:
  """Samples with DPM-Solver++ (2M SDE), as CogVideoX and the paper do.

  The function is pure and jittable; `schedule` is static.

  Args:
    denoise_fn: Maps (x [B, F, h, w, c], t [B] float32, scale []) to v with
      guidance, see `guidance.guided`.
    noise: Initial state, standard normal [B, F, h, w, c]. The computation has
      its dtype, raised to at least float32.
    schedule: Schedule of n steps, see `sampling_schedule`.
    scales: Guidance strength by step, [n], e.g. `guidance.cosine(...)`.
    key: Random key; the noise of step i is drawn with fold_in(key, i).
    step_noise: Noise of all steps, [n, B, F, h, w, c], instead of a key, to
      replay a run.
    trajectory: Returns every step.
    on_step: Host function that is called with i after step i, for a progress
      bar. Under jit its identity is part of the compiled program.

  Returns:
    Latents like `noise`; with `trajectory` a `Trajectory`.

  Raises:
    ValueError: shapes do not fit the schedule, or there is no source of noise.
  """
  return _run(
    denoise_fn,
    noise,
    schedule,
    scales,
    dpmpp_2m_sde_coefficients(schedule),
    key,
    step_noise,
    trajectory,
    on_step,
  )


def ddim(
  denoise_fn: guidance.DenoiseFn,
  noise: jax.Array,
  schedule: SamplingSchedule,
  scales: np.ndarray | jax.Array,
  key: jax.Array | None = None,
  *,
  eta: float = 0.0,
  step_noise: jax.Array | None = None,
  trajectory: bool = False,
  on_step: OnStep | None = None,
) -> jax.Array | Trajectory:
  """Samples with DDIM; other arguments as for `dpmpp_2m_sde`.

  Args:
    denoise_fn: Maps a state to v with guidance.
    noise: Initial state, standard normal [B, F, h, w, c].
    schedule: Schedule of n steps.
    scales: Guidance strength by step, [n].
    key: Random key; not needed if `eta` is 0.
    eta: Share of noise per step: 0 is deterministic, 1 has the variance of
      DDPM.
    step_noise: Noise of all steps instead of a key.
    trajectory: Returns every step.
    on_step: Host function that is called after every step.

  Raises:
    ValueError: as for `dpmpp_2m_sde`, or eta is not in 0 to 1.
  """
  if not 0 <= eta <= 1:
    raise ValueError(f'eta {eta} of DDIM must be 0 to 1, e.g. 0.0')
  return _run(
    denoise_fn,
    noise,
    schedule,
    scales,
    ddim_coefficients(schedule, eta),
    key,
    step_noise,
    trajectory,
    on_step,
  )
