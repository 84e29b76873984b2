"""Classifier-free guidance: its strength by step, and the guided network.

A guidance schedule is a function (scale, steps, timesteps) -> float64 [steps]
in sampling order, noisiest step first. Strength 1 is the prediction for the
text without guidance. docs/guidance.md plots the three schedules.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.diffusion import sampling_schedule

Schedule = Callable[[float, int, np.ndarray | None], np.ndarray]
# (x [B, F, h, w, c], t [B], scale []) -> prediction like x.
DenoiseFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# Exponent of CogVideoX's dynamic guidance.
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
  """Returns 1 + scale (1 - cos(pi progress^5)) / 2, CogVideoX's ramp."""
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
  """Returns CogVideoX's documented ramp, float64 [steps].

  The strength is 1 at pure noise and rises late towards 1 + scale, which it
  would reach one step after the last. Scale 0 is therefore no guidance.

  Example:
    >>> cosine(6.0, 4).round(2).tolist()
    [1.0, 1.0, 1.01, 1.8]
  """
  _check(scale, steps, timesteps)
  return _dynamic(scale, np.arange(steps) / steps)


def reference(
  scale: float, steps: int, timesteps: np.ndarray | None = None
) -> np.ndarray:
  """Returns the strengths that the paper's sampler applied, float64 [steps].

  It uses `steps - timestep` where the ramp expects the index of the step, so
  that the strength jumps within [1, 1 + scale]. The arguments of the cosine
  reach about ten million and need float64.

  Args:
    scale: Height of the jumps.
    steps: Number of sampling steps.
    timesteps: Timesteps 0 to 999 in sampling order; None takes those of the
      reference schedule.
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
  """Returns the guidance schedule `name`; ValueError lists the valid names."""
  if name not in SCHEDULES:
    raise ValueError(
      f'unknown guidance schedule {name!r}; expected one of'
      f' {", ".join(SCHEDULES)}'
    )
  return SCHEDULES[name]


def is_off(scales: np.ndarray) -> bool:
  """Returns whether all strengths are 1, so that no negative text is needed."""
  return bool(np.all(np.asarray(scales) == 1))


def guided(
  apply: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  text: jax.Array,
  negative: jax.Array | None,
) -> DenoiseFn:
  """Returns a function for samplers: negative + scale (text - negative).

  Args:
    apply: Network, maps latents [B, F, h, w, c], text [B, S, L, Dt] and
      timesteps [B] to a prediction like the latents. It is called once per
      step, with batch 2 B in the order [negative; text].
    text: Text states [B, S, L, Dt].
    negative: Text states [B, S, L, Dt] to guide away from. None returns the
      prediction for the text at half the work and ignores the scale, which is
      correct only if `is_off`.

  Raises:
    ValueError: the two texts have different shapes.
  """
  if negative is None:
    return lambda x, t, scale: apply(x, text, t)
  if negative.shape != text.shape:
    raise ValueError(
      f'negative text of shape {negative.shape} for text of shape'
      f' {text.shape}: the two must be equal'
    )
  both = jnp.concatenate([negative, text])

  def denoise_fn(x, t, scale):
    v = apply(jnp.concatenate([x, x]), both, jnp.concatenate([t, t])).astype(
      x.dtype
    )
    negative_v, text_v = jnp.split(v, 2)
    return negative_v + scale * (text_v - negative_v)

  return denoise_fn
