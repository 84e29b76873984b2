"""Samplers: noise to latents along a grid, as one `jax.lax.scan`.

Both samplers are linear in what they see, so each is a table of coefficients,
computed on the host in float64:

  x' = state x + denoised D + previous D_prev + noise z,

with D = a x - sqrt(1 - a^2) v the denoised estimate at this step, D_prev that
of the step before, and z standard normal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.diffusion import guidance
from ttt_jax.diffusion.sampling_schedule import SamplingSchedule

OnStep = Callable[[int], None]


class _Coefficients(NamedTuple):
  """Of the update above, each float64 [n]."""

  state: np.ndarray
  denoised: np.ndarray
  previous: np.ndarray
  noise: np.ndarray


class Trajectory(NamedTuple):
  """Every step of a run, each [n, B, F, h, w, c]; states[-1] is the result."""

  states: jax.Array
  denoised: jax.Array


def _dpmpp_2m_sde_coefficients(grid: SamplingSchedule) -> _Coefficients:
  """Lu et al. 2022 (DPM-Solver++, 2M SDE), exponentials written as ratios.

  lambda = log(a / s), h = lambda' - lambda; then e^-h = a s' / (a' s) is
  finite at both ends, where lambda is not.
  """
  a, a_next = grid.alpha, grid.next_alpha
  s, s_next = np.sqrt(1 - a**2), np.sqrt(1 - a_next**2)
  decay = a * s_next / (a_next * s)
  denoised = a_next * (1 - decay**2)
  # h / (2 h_prev), the weight of the extrapolation from D_prev to D, where
  # h_prev is lambda less that of the step before. Steps that touch an infinite
  # lambda (from pure noise, to the clean end) and the one after the first have
  # none: they are first order.
  order = np.zeros(grid.steps)
  second = np.flatnonzero(a_next < 1)[2:]
  before = a[second - 1] * s[second] / (a[second] * s[second - 1])
  order[second] = np.log(decay[second]) / (2 * np.log(before))
  return _Coefficients(
    state=s_next / s * decay,
    denoised=denoised * (1 + order),
    previous=-denoised * order,
    noise=s_next * np.sqrt(1 - decay**2),
  )


def _ddim_coefficients(grid: SamplingSchedule, eta: float) -> _Coefficients:
  """Song et al. 2021 (DDIM), eq. 12 and 16."""
  a, a_next = grid.alpha, grid.next_alpha
  s, s_next = np.sqrt(1 - a**2), np.sqrt(1 - a_next**2)
  noise = eta * s_next / s * np.sqrt(1 - (a / a_next) ** 2)
  state = np.sqrt(s_next**2 - noise**2) / s
  return _Coefficients(
    state=state,
    denoised=a_next - a * state,
    previous=np.zeros(grid.steps),
    noise=noise,
  )


def _run(
  network: guidance.Network,
  x: jax.Array,
  grid: SamplingSchedule,
  scales: np.ndarray | jax.Array,
  coefficients: _Coefficients,
  key: jax.Array | None,
  step_noise: jax.Array | None,
  trajectory: bool,
  on_step: OnStep | None,
) -> jax.Array | Trajectory:
  """Scans the update over the grid; arguments as in `dpmpp_2m_sde`."""
  if np.shape(scales) != (grid.steps,):
    raise ValueError(
      f'guidance scales of shape {np.shape(scales)} for {grid.steps} sampling'
      f' steps: must be ({grid.steps},)'
    )
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  noisy = bool(np.any(coefficients.noise))
  if noisy and key is None and step_noise is None:
    raise ValueError(
      'this sampler adds noise at each step: give key=, e.g. jax.random.key(0)'
    )
  if step_noise is not None and step_noise.shape != (grid.steps, *x.shape):
    raise ValueError(
      f'step noise of shape {step_noise.shape}: must be'
      f' {(grid.steps, *x.shape)}'
    )

  def step(carry, inputs):
    x, previous = carry
    i, t, scale, alpha, sigma, c, z = inputs
    v = network(x, jnp.full(x.shape[:1], t), scale).astype(x.dtype)
    denoised = alpha * x - sigma * v
    new = c.state * x + c.denoised * denoised + c.previous * previous
    if noisy:
      if z is None:
        z = jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
      new += c.noise * z
    if on_step is not None:
      # One element of the result makes the call wait for the step.
      jax.debug.callback(lambda i, _: on_step(int(i)), i, new[(0,) * new.ndim])
    kept = Trajectory(new, denoised) if trajectory else None
    return (new, denoised), kept

  alpha = grid.denoiser_alpha
  cast = lambda table: jnp.asarray(table, x.dtype)
  inputs = (
    jnp.arange(grid.steps),
    jnp.asarray(grid.timesteps, jnp.float32),
    cast(scales),
    cast(alpha),
    cast(np.sqrt(1 - alpha**2)),
    jax.tree.map(cast, coefficients),
    None if step_noise is None else cast(step_noise),
  )
  (x, _), kept = jax.lax.scan(step, (x, jnp.zeros_like(x)), inputs)
  return kept if trajectory else x


def dpmpp_2m_sde(
  network: guidance.Network,
  noise: jax.Array,
  grid: SamplingSchedule,
  scales: np.ndarray | jax.Array,
  key: jax.Array | None = None,
  *,
  step_noise: jax.Array | None = None,
  trajectory: bool = False,
  on_step: OnStep | None = None,
) -> jax.Array | Trajectory:
  """Samples with DPM-Solver++ (2M SDE) as CogVideoX and the paper do.

  Pure and jittable, `grid` static.

  Args:
    network: (x [B,F,h,w,c], t [B] float32, scale []) -> v, already guided; see
      `guidance.guided`.
    noise: the start, standard normal [B,F,h,w,c]. The run is in its dtype, but
      at least float32.
    grid: from `sampling_grid`, n steps.
    scales: guidance strength by step [n], e.g. `guidance.cosine(...)`.
    key: noise of step i is drawn with fold_in(key, i).
    step_noise: explicit noise [n,B,F,h,w,c] instead, to replay a run.
    trajectory: return every step.
    on_step: host function called with i when step i is done, for a progress
      bar; under jit its identity is part of the compiled program.

  Returns:
    The latents like `noise`; or a `Trajectory`.

  Raises:
    ValueError: shapes do not fit the grid, or there is no source of noise.
  """
  return _run(
    network,
    noise,
    grid,
    scales,
    _dpmpp_2m_sde_coefficients(grid),
    key,
    step_noise,
    trajectory,
    on_step,
  )


def ddim(
  network: guidance.Network,
  noise: jax.Array,
  grid: SamplingSchedule,
  scales: np.ndarray | jax.Array,
  key: jax.Array | None = None,
  *,
  eta: float = 0.0,
  step_noise: jax.Array | None = None,
  trajectory: bool = False,
  on_step: OnStep | None = None,
) -> jax.Array | Trajectory:
  """Samples with DDIM; arguments as `dpmpp_2m_sde`.

  `eta` 0 is deterministic and needs no key; 1 has the variance of DDPM.

  Raises:
    ValueError: as `dpmpp_2m_sde`, or eta is not in 0 to 1.
  """
  if not 0 <= eta <= 1:
    raise ValueError(f'eta {eta} of DDIM must be 0 to 1, e.g. 0.0')
  return _run(
    network,
    noise,
    grid,
    scales,
    _ddim_coefficients(grid, eta),
    key,
    step_noise,
    trajectory,
    on_step,
  )
