"""DDIM inversion: maps latents to the noise from which they are sampled.

DDIM without noise (Song et al. 2021) is a step of an ordinary differential
equation; in the other direction it goes from clean to noisy. In a state x =
alpha x0 + sigma eps, with sigma = sqrt(1 - alpha^2), the network predicts eps,
and a step to the next level is x' = alpha' x0 + sigma' eps. As in Tune-A-Video,
every step combines the timestep that it goes to with the state that it comes
from, so that the inversion is approximate.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import samplers
from ttt_jax.diffusion import schedule as schedule_lib
from ttt_jax.diffusion.sampling_schedule import SamplingSchedule

_INVERTIBLE = ('epsilon', 'v_prediction')


def invert(
  denoise_fn: guidance.DenoiseFn,
  latents: jax.Array,
  schedule: SamplingSchedule,
  scales: np.ndarray | jax.Array,
  *,
  prediction: str = 'v_prediction',
  trajectory: bool = False,
  on_step: samplers.OnStep | None = None,
) -> jax.Array:
  """Runs `schedule` from its clean end to its noisy one.

  The function is pure and jittable; `schedule` is static.

  Args:
    denoise_fn: Maps (x [B, F, h, w, c], t [B] float32, scale []) to a
      prediction.
    latents: Clean latents [B, F, h, w, c]. The computation has their dtype,
      raised to at least float32.
    schedule: Schedule of sampling with n steps, which runs backwards.
    scales: Guidance strength by step of sampling, [n]; ones for the inversion
      of a conditional model.
    prediction: Output of `denoise_fn`, 'epsilon' or 'v_prediction'. An estimate
      of x0 does not determine the noise at the clean end.
    trajectory: Returns every state.
    on_step: Host function that is called with i after step i. Under jit its
      identity is part of the compiled program.

  Returns:
    Latents at the level schedule.alpha[0]; with `trajectory` all states
    [n + 1, B, F, h, w, c], starting with `latents`.

  Raises:
    ValueError: the prediction is unknown, or scales do not fit the schedule.
  """
  schedule_lib.check_prediction(prediction, _INVERTIBLE)
  schedule.check_scales(scales)
  x = latents.astype(jnp.promote_types(latents.dtype, jnp.float32))
  alpha, next_alpha = schedule.next_alpha[::-1], schedule.alpha[::-1]
  sigma, next_sigma = np.sqrt(1 - alpha**2), np.sqrt(1 - next_alpha**2)
  # Coefficients of x' = alpha' x0 + sigma' eps = state x + output prediction.
  if prediction == 'epsilon':
    # x0 = (x - sigma eps) / alpha
    state = next_alpha / alpha
    output = next_sigma - next_alpha * sigma / alpha
  else:
    # x0 = alpha x - sigma v, eps = sigma x + alpha v
    state = next_alpha * alpha + next_sigma * sigma
    output = next_sigma * alpha - next_alpha * sigma
  cast = lambda table: jnp.asarray(table, x.dtype)

  def step(x, inputs):
    i, t, scale, state, output = inputs
    predicted = denoise_fn(x, jnp.full(x.shape[:1], t), scale).astype(x.dtype)
    x = state * x + output * predicted
    samplers.report_step(on_step, i, x)
    return x, (x,) if trajectory else ()

  inputs = (
    jnp.arange(schedule.steps),
    jnp.asarray(schedule.timesteps[::-1], jnp.float32),
    cast(scales)[::-1],
    cast(state),
    cast(output),
  )
  last, states = jax.lax.scan(step, x, inputs)
  return jnp.concatenate([x[None], *states]) if trajectory else last


def as_velocity(
  denoise_fn: guidance.DenoiseFn,
  prediction: str,
  schedule: np.ndarray | None = None,
) -> guidance.DenoiseFn:
  """Converts a function with any prediction into one that predicts v.

  The samplers require v. The result is valid only for states with the noise of
  their timestep in the noise schedule, as on a `sampling_schedule.leading`.

  Args:
    denoise_fn: Function to convert.
    prediction: Output of `denoise_fn`, one of `schedule.PREDICTIONS`.
    schedule: Noise schedule sqrt(alpha_bar) [num] of training; None is Stable
      Diffusion's.

  Raises:
    ValueError: the prediction is unknown.
  """
  schedule_lib.check_prediction(prediction)
  if prediction == 'v_prediction':
    return denoise_fn
  if schedule is None:
    schedule = schedule_lib.scaled_linear_alphas()
  table = np.asarray(schedule, np.float64)

  def velocity(x, t, scale):
    shape = (-1,) + (1,) * (x.ndim - 1)
    level = lambda values: jnp.asarray(values, x.dtype)[
      t.astype(jnp.int32)
    ].reshape(shape)
    alpha, sigma = level(table), level(np.sqrt(1 - table**2))
    predicted = denoise_fn(x, t, scale).astype(x.dtype)
    if prediction == 'sample':
      # v = alpha eps - sigma x0, with eps = (x - alpha x0) / sigma
      return (alpha * x - predicted) / sigma
    # The same with x0 = (x - sigma eps) / alpha
    return (predicted - sigma * x) / alpha

  return velocity
