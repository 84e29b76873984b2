"""DDIM inversion against Tune-A-Video's, and sampling after it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import compare
from ttt_jax.diffusion import inversion
from ttt_jax.diffusion import samplers
from ttt_jax.diffusion import sampling_schedule
from ttt_jax.diffusion import schedule as schedule_lib

SHAPE = (2, 3, 2, 2, 4)


def network(a, b):
  """Returns the golden file's network, channels last."""
  return lambda x, t, scale: a * x + b * t[:, None, None, None, None] / 1000


@pytest.fixture(name='io')
def _io(golden):
  with np.load(golden('tav_unet2d') / 'io.npz') as io:
    return {k: v for k, v in io.items() if k.startswith(('inv_', 'ddim_'))}


def test_schedule_of_the_reference(io):
  schedule = sampling_schedule.leading(50)
  np.testing.assert_array_equal(schedule.timesteps, io['inv_timesteps'])
  times = io['inv_timesteps']
  levels = np.sqrt(io['inv_alphas_cumprod'])
  np.testing.assert_allclose(schedule.alpha, levels[times], rtol=1e-6)
  np.testing.assert_allclose(
    schedule.next_alpha[-1], np.sqrt(io['inv_final_alpha_cumprod']), rtol=1e-6
  )
  np.testing.assert_array_equal(schedule.next_alpha[:-1], schedule.alpha[1:])
  assert sampling_schedule.leading(50) is schedule
  assert sampling_schedule.leading(50, ends_clean=True).next_alpha[-1] == 1
  assert sampling_schedule.leading(50, offset=0).timesteps[-1] == 0


@pytest.mark.optimized
def test_trajectories_of_the_reference(io):
  schedule = sampling_schedule.leading(50)
  last = lambda x: np.moveaxis(x, -4, -1)
  run = network(io['inv_net_a'], io['inv_net_b'])
  ones = np.ones(schedule.steps)
  states = inversion.invert(
    run,
    last(io['inv_latent0']),
    schedule,
    ones,
    prediction='epsilon',
    trajectory=True,
  )
  assert compare.relative_error(states, last(io['inv_latents'])) < 2e-5
  back = samplers.ddim(
    inversion.as_velocity(run, 'epsilon'),
    states[-1],
    schedule,
    ones,
    trajectory=True,
  ).states
  assert compare.relative_error(back, last(io['ddim_back'])) < 2e-5


SCHEDULES = {
  'leading': sampling_schedule.leading(20),
  'clean': sampling_schedule.leading(20, ends_clean=True),
  'cogvideox': sampling_schedule.from_name('diffusers', 20),
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_sampling_inverts_the_inversion_of_a_perfect_network(name):
  # A network that knows the answer predicts the same at both ends of a step.
  schedule = SCHEDULES[name]
  rng = np.random.default_rng(0)
  x0, noise = rng.normal(size=(2, *SHAPE))
  with jax.enable_x64(True):
    levels = {
      float(t): (a, b)
      for t, a, b in zip(
        schedule.timesteps, schedule.alpha, schedule.next_alpha
      )
    }
    times = jnp.array(list(levels))
    start = (
      schedule.next_alpha[-1] * x0
      + np.sqrt(1 - schedule.next_alpha[-1] ** 2) * noise
    )

    def velocity(side):
      table = jnp.array([pair[side] for pair in levels.values()])

      def run(x, t, scale):
        del x, scale
        a = table[jnp.argmax(times == t[0])]
        return a * noise - jnp.sqrt(1 - a**2) * x0

      return run

    ones = np.ones(schedule.steps)
    states = inversion.invert(
      velocity(1), jnp.asarray(start), schedule, ones, trajectory=True
    )
    levels_up = np.append(schedule.next_alpha[-1], schedule.alpha[::-1])
    for state, a in zip(states, levels_up):
      np.testing.assert_allclose(
        state, a * x0 + np.sqrt(1 - a**2) * noise, atol=1e-10
      )
    back = samplers.ddim(velocity(0), states[-1], schedule, ones)
    np.testing.assert_allclose(back, start, atol=1e-10)


@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction'])
def test_more_steps_make_sampling_closer_to_the_inverse(prediction):
  start = jax.random.normal(jax.random.key(0), SHAPE)

  def run(x, t, scale):
    del scale
    return 0.3 * jnp.sin(2 * x) + 0.1 * t[:, None, None, None, None] / 1000

  def distance(steps):
    schedule = sampling_schedule.leading(steps)
    ones = np.ones(steps)
    noise = inversion.invert(run, start, schedule, ones, prediction=prediction)
    assert np.abs(noise - start).max() > 0.1
    return np.abs(
      samplers.ddim(
        inversion.as_velocity(run, prediction), noise, schedule, ones
      )
      - start
    ).mean()

  # First order: ten times the steps, about a tenth of the error.
  few, many = distance(25), distance(250)
  assert many < few / 5 and many < 0.05


def test_both_predictions_describe_one_network():
  schedule = sampling_schedule.leading(10)
  noise = lambda x, t, scale: 0.3 * x + scale
  a, s = schedule.next_alpha, np.sqrt(1 - schedule.next_alpha**2)

  def velocity(x, t, scale):
    i = jnp.argmax(jnp.asarray(schedule.timesteps) == t[0])
    at = lambda table: jnp.asarray(table)[i]
    return (noise(x, t, scale) - at(s) * x) / at(a)

  start = jax.random.normal(jax.random.key(1), SHAPE)
  scales = np.linspace(0.1, 1, 10)
  want = inversion.invert(noise, start, schedule, scales, prediction='epsilon')
  found = inversion.invert(velocity, start, schedule, scales)
  np.testing.assert_allclose(found, want, atol=1e-5)


def test_on_step_reports_every_step():
  seen = []
  schedule = sampling_schedule.leading(5)
  inversion.invert(
    network(0.1, 0.1),
    jnp.ones(SHAPE),
    schedule,
    np.ones(5),
    on_step=seen.append,
  ).block_until_ready()
  jax.effects_barrier()
  assert sorted(seen) == list(range(5))


@pytest.mark.parametrize('shift', [1.0, 16.0])
def test_an_estimate_of_x0_is_the_same_velocity(shift):
  table = schedule_lib.zero_snr_schedule(shift=shift)
  run = network(1, 1)

  def estimate(x, t, scale):
    alpha = jnp.asarray(table)[t.astype(int)][:, None, None, None, None]
    sigma = jnp.sqrt(1 - alpha**2)
    return alpha * x - sigma * run(x, t, scale)

  velocity = inversion.as_velocity(estimate, 'sample', table)
  x = jax.random.normal(jax.random.key(0), (4, *SHAPE[1:]))
  t = jnp.array([0.0, 61.0, 500.0, 999.0])
  np.testing.assert_allclose(velocity(x, t, 1.0), run(x, t, 1.0), atol=2e-5)


def test_errors():
  run, x, schedule = (
    network(1, 1),
    jnp.ones(SHAPE),
    sampling_schedule.leading(5),
  )
  with pytest.raises(ValueError, match=r'shape \(4,\) for 5 sampling steps'):
    inversion.invert(run, x, schedule, np.ones(4))
  for call in (
    lambda: inversion.invert(run, x, schedule, np.ones(5), prediction='sample'),
    lambda: inversion.as_velocity(run, 'flow'),
  ):
    with pytest.raises(ValueError, match='; expected one of epsilon, v_'):
      call()
  with pytest.raises(
    ValueError, match='steps is .*; expected a whole number from 1'
  ):
    sampling_schedule.leading(0)
  with pytest.raises(ValueError, match='1000 steps from timestep 1 on exceed'):
    sampling_schedule.leading(1000)


@pytest.mark.parametrize('name', ['diffusers', 'reference'])
def test_a_step_takes_an_estimate_of_x0_as_it_is(name):
  schedule = sampling_schedule.from_name(name, 4, 3.0)
  table = samplers.table(
    schedule, np.ones(4), samplers.dpmpp_2m_sde_coefficients(schedule)
  )
  numbers = jax.tree.map(lambda values: values[2], table)
  x, estimate = (jax.random.normal(jax.random.key(i), SHAPE) for i in (0, 1))
  velocity = (numbers.alpha * x - estimate) / numbers.sigma
  take = lambda output, *rest: samplers.step(
    lambda *_: output, x, 0 * x, numbers, x, *rest
  )
  found = take(estimate, 'sample')
  for ours, theirs in zip(found, take(velocity)):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
  np.testing.assert_array_equal(found[1], estimate)
