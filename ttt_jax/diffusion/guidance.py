"""Classifier-free guidance: its strength by step, and the guided network.

A schedule is a function (scale, steps, timesteps) -> float64 [steps] in
sampling order, noisiest step first. Strength 1 is the prediction for the text
alone. docs/guidance.md shows the three of them.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.diffusion import sampling_schedule

Schedule = Callable[[float, int, np.ndarray | None], np.ndarray]
# (x [B,F,h,w,c], t [B], scale []) -> v [B,F,h,w,c]
Network = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# The exponent of the dynamic guidance of CogVideoX.
_EXPONENT = 5


def _check(scale: float, steps: int, timesteps: np.ndarray | None) -> None:
  sampling_schedule.check_steps(steps)
  if not math.isfinite(scale):
    raise ValueError(f'guidance scale {scale} must be finite, e.g. 6.0')
  if timesteps is not None and np.shape(timesteps) != (steps,):
    raise ValueError(
      f'timesteps of shape {np.shape(timesteps)} for {steps} sampling steps:'
      f' must be ({steps},)'
    )


def _dynamic(scale: float, progress: np.ndarray) -> np.ndarray:
  """1 + scale (1 - cos(pi progress^5)) / 2 (CogVideoX, dynamic guidance)."""
  return 1 + scale * (1 - np.cos(np.pi * progress**_EXPONENT)) / 2


def constant(
  scale: float, steps: int, timesteps: np.ndarray | None = None
) -> np.ndarray:
  """Returns the same strength for every step, float64 [steps]."""
  _check(scale, steps, timesteps)
  return np.full(steps, scale, np.float64)


def cosine(
  scale: float, steps: int, timesteps: np.ndarray | None = None
) -> np.ndarray:
  """Returns the documented ramp of CogVideoX, float64 [steps].

  1 at pure noise, rising late towards 1 + scale, which it would reach one step
  after the last; scale 0 is therefore no guidance.
  """
  _check(scale, steps, timesteps)
  return _dynamic(scale, np.arange(steps) / steps)


def reference(
  scale: float, steps: int, timesteps: np.ndarray | None = None
) -> np.ndarray:
  """Returns what the paper's sampler really applied, float64 [steps].

  It puts `steps - timestep` where the ramp expects the number of the step: the
  strength then jumps about in [1, 1 + scale]. The cosine sees arguments of
  some ten million, so this needs float64.

  Args:
    scale: height of the jumps.
    steps: number of sampling steps.
    timesteps: 0..999 in sampling order; None takes the reference grid's own.
  """
  _check(scale, steps, timesteps)
  if timesteps is None:
    timesteps = sampling_schedule.reference_timesteps(steps)
  return _dynamic(scale, (steps - np.asarray(timesteps, np.float64)) / steps)


SCHEDULES: dict[str, Schedule] = {
  'constant': constant,
  'cosine': cosine,
  'reference': reference,
}


def schedule(name: str) -> Schedule:
  """Returns the schedule called `name`; ValueError lists the legal names."""
  if name not in SCHEDULES:
    raise ValueError(
      f'unknown guidance schedule {name!r}: must be one of {sorted(SCHEDULES)}'
    )
  return SCHEDULES[name]


def is_off(scales: np.ndarray) -> bool:
  """True if every strength is 1, so that `guided` needs no negative text."""
  return bool(np.all(np.asarray(scales) == 1))


def guided(
  apply: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  text: jax.Array,
  negative: jax.Array | None,
) -> Network:
  """Returns a network for the samplers: negative + scale (text - negative).

  Args:
    apply: (latents [B,F,h,w,c], text [B,S,L,Dt], timesteps [B]) -> v like the
      latents. Called once a step, with batch 2B in the order [negative; text].
    text: [B,S,L,Dt].
    negative: [B,S,L,Dt], or None for the text's prediction alone, at half the
      work and whatever the scale: right only where `is_off`.

  Raises:
    ValueError: the two texts have different shapes.
  """
  if negative is None:
    return lambda x, t, scale: apply(x, text, t)
  if negative.shape != text.shape:
    raise ValueError(
      f'negative text of shape {negative.shape} beside text of shape'
      f' {text.shape}: the two must be equal'
    )
  both = jnp.concatenate([negative, text])

  def network(x, t, scale):
    v = apply(jnp.concatenate([x, x]), both, jnp.concatenate([t, t])).astype(
      x.dtype
    )
    negative_v, text_v = jnp.split(v, 2)
    return negative_v + scale * (text_v - negative_v)

  return network
