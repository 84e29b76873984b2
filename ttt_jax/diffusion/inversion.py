"""DDIM inversion: from latents to the noise that they are sampled from.

DDIM without noise (Song et al. 2021) is a step of an ordinary differential
equation, and walked the other way it goes from clean to noisy. With a the
share of the signal, s = sqrt(1 - a^2), and E the noise that the network finds
in x = a D + s E, a step to the next level is x' = a' D + s' E. Every step is
told the timestep that it goes to, with the state that it comes from, as
Tune-A-Video does: the way back is near, not exact.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import schedule
from ttt_jax.diffusion.sampling_schedule import SamplingSchedule

OnStep = Callable[[int], None]


def invert(
  network: guidance.Network,
  latents: jax.Array,
  grid: SamplingSchedule,
  scales: np.ndarray | jax.Array,
  *,
  prediction: str = 'v_prediction',
  trajectory: bool = False,
  on_step: OnStep | None = None,
) -> jax.Array:
  """Walks `grid` from its clean end to its noisy one.

  Pure and jittable, `grid` static.

  Args:
    network: (x [B,F,h,w,c], t [B] float32, scale []) -> its prediction.
    latents: clean, [B,F,h,w,c]. The run is in their dtype, at least float32.
    grid: as for sampling, noisiest first, n steps; walked backwards.
    scales: guidance strength by step of sampling [n]; the inversion of a
      conditional model takes ones.
    prediction: what the network returns, one of `schedule.PREDICTIONS`.
    trajectory: return every state.
    on_step: host function called with i when step i is done; under jit its
      identity is part of the compiled program.

  Returns:
    Latents at the level grid.alpha[0]; with `trajectory` [n + 1,B,F,h,w,c],
    from `latents` on.

  Raises:
    ValueError: an unknown prediction, or scales that do not fit the grid.
  """
  schedule.check_prediction(prediction)
  if np.shape(scales) != (grid.steps,):
    raise ValueError(
      f'guidance scales of shape {np.shape(scales)} for {grid.steps} steps of'
      f' inversion: must be ({grid.steps},)'
    )
  x = latents.astype(jnp.promote_types(latents.dtype, jnp.float32))
  a, a_next = grid.next_alpha[::-1], grid.alpha[::-1]
  s, s_next = np.sqrt(1 - a**2), np.sqrt(1 - a_next**2)
  # x' = state x + output (what the network says), as a' D + s' E comes to:
  if prediction == 'epsilon':
    # D = (x - s E) / a
    state, output = a_next / a, s_next - a_next * s / a
  else:
    # D = a x - s v, E = s x + a v
    state, output = a_next * a + s_next * s, s_next * a - a_next * s
  cast = lambda table: jnp.asarray(table, x.dtype)

  def step(x, inputs):
    i, t, scale, state, output = inputs
    found = network(x, jnp.full(x.shape[:1], t), scale).astype(x.dtype)
    x = state * x + output * found
    if on_step is not None:
      # One element of the result makes the call wait for the step.
      jax.debug.callback(lambda i, _: on_step(int(i)), i, x[(0,) * x.ndim])
    return x, x if trajectory else None

  inputs = (
    jnp.arange(grid.steps),
    jnp.asarray(grid.timesteps[::-1], jnp.float32),
    cast(scales)[::-1],
    cast(state),
    cast(output),
  )
  last, states = jax.lax.scan(step, x, inputs)
  return jnp.concatenate([x[None], states]) if trajectory else last


def as_velocity(network: guidance.Network, prediction: str) -> guidance.Network:
  """A network of either prediction as the samplers want it, which is v.

  Only for states whose noise is that of the timestep in Stable Diffusion's
  table, as on a `leading_grid`.

  Raises:
    ValueError: an unknown prediction.
  """
  schedule.check_prediction(prediction)
  if prediction == 'v_prediction':
    return network
  table = schedule.scaled_linear_alphas()

  def velocity(x, t, scale):
    shape = (-1,) + (1,) * (x.ndim - 1)
    level = lambda values: jnp.asarray(values, x.dtype)[
      t.astype(jnp.int32)
    ].reshape(shape)
    noise = network(x, t, scale).astype(x.dtype)
    # v = a E - s D, with D = (x - s E) / a
    return (noise - level(np.sqrt(1 - table**2)) * x) / level(table)

  return velocity
