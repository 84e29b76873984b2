"""Samplers against stored trajectories, and their properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import compare
from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import sampling_schedule
from ttt_jax.diffusion.samplers import ddim
from ttt_jax.diffusion.samplers import dpmpp_2m_sde

SHAPE = (2, 3, 2, 2, 4)


def _channel_last(x):
  """Moves the channels of [..., B, F, C, h, w] to the end."""
  return np.moveaxis(x, -3, -1)


@pytest.mark.parametrize('tag,steps,shift', [('a', 50, 1), ('b', 20, 3)])
@pytest.mark.optimized
def test_reference_trajectory(golden, tag, steps, shift):
  data = np.load(golden('schedule_sampler.npz'))
  get = lambda name: data[f'sampler_{tag}_{name}']
  a, b, c = get('net_a'), get('net_b'), get('net_c')

  def apply(x, text, t):
    mean = jnp.mean(text, axis=(1, 2, 3))[:, None, None, None, None]
    return a * x + b * mean + c * t[:, None, None, None, None] / 1000

  schedule = sampling_schedule.from_name('reference', steps, shift)
  np.testing.assert_array_equal(schedule.timesteps, get('t_idx'))
  start = jnp.asarray(_channel_last(get('x_init')))
  run = jax.jit(
    dpmpp_2m_sde, static_argnums=(0, 2), static_argnames='trajectory'
  )
  network = guidance.guided(
    apply, jnp.asarray(get('text')), jnp.asarray(get('neg_text'))
  )
  scales = guidance.reference(6.0, steps, schedule.timesteps)
  noise = jnp.asarray(_channel_last(get('noise_used')))
  states, denoised = run(
    network, start, schedule, scales, step_noise=noise, trajectory=True
  )
  assert compare.relative_error(states, _channel_last(get('x_steps'))) <= 1e-4
  assert (
    compare.relative_error(states, _channel_last(get('x_steps_f64'))) <= 1e-4
  )
  assert (
    compare.relative_error(denoised, _channel_last(get('denoised_steps')))
    <= 1e-4
  )
  out = run(network, start, schedule, scales, step_noise=noise)
  assert compare.relative_error(out, _channel_last(get('out'))) <= 1e-4


@pytest.mark.parametrize('name', ['ddim', 'dpm'])
@pytest.mark.optimized
def test_diffusers_trajectory(golden, name):
  data = np.load(golden('diffusers_schedulers.npz'))
  a, b = data['net_a'], data['net_b']

  def network(x, t, scale):
    del scale
    return a * x + b * t[:, None, None, None, None] / 1000

  arguments = (
    network,
    jnp.asarray(_channel_last(data['x_init'])),
    sampling_schedule.from_name('diffusers', 50),
    guidance.constant(1.0, 50),
  )
  if name == 'ddim':
    states, denoised = ddim(*arguments, trajectory=True)
  else:
    states, denoised = dpmpp_2m_sde(
      *arguments,
      trajectory=True,
      step_noise=jnp.asarray(_channel_last(data['dpm_noise'])),
    )
  assert (
    compare.relative_error(states, _channel_last(data[f'{name}_x'])) <= 2e-5
  )
  assert (
    compare.relative_error(denoised, _channel_last(data[f'{name}_x0'])) <= 2e-5
  )


def _perfect(x0, schedule):
  """Returns the v of a network that knows x0, at each level of the schedule."""

  def network(x, t, scale):
    del scale
    alpha = jnp.interp(
      t, schedule.timesteps[::-1], schedule.denoiser_alpha[::-1]
    )[:, None, None, None, None]
    return (alpha * x - x0) / jnp.sqrt(1 - alpha**2)

  return network


def _normal(seed, shape=SHAPE):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
  'name,steps',
  [
    ('diffusers', 1),
    ('diffusers', 2),
    ('diffusers', 3),
    ('diffusers', 4),
    ('diffusers', 10),
    ('reference', 2),
    ('reference', 10),
  ],
)
@pytest.mark.parametrize('sampler', [ddim, dpmpp_2m_sde])
def test_a_perfect_denoiser_gives_its_image(sampler, name, steps):
  schedule = sampling_schedule.from_name(name, steps)
  x0 = _normal(1)
  out = sampler(
    _perfect(x0, schedule),
    _normal(2),
    schedule,
    np.ones(steps),
    jax.random.key(3),
  )
  np.testing.assert_allclose(out, x0, atol=2e-4)


def test_perfect_denoising_keeps_the_noise_level():
  """Each state is alpha x0 + sqrt(1 - alpha^2) (unit noise)."""
  schedule = sampling_schedule.from_name('diffusers', 6)
  x0 = _normal(1, (1, 4, 32, 32, 4))
  start = _normal(2, x0.shape)
  for run in (
    lambda: dpmpp_2m_sde(
      _perfect(x0, schedule),
      start,
      schedule,
      np.ones(6),
      jax.random.key(3),
      trajectory=True,
    ),
    lambda: ddim(
      _perfect(x0, schedule),
      start,
      schedule,
      np.ones(6),
      jax.random.key(3),
      eta=1.0,
      trajectory=True,
    ),
    lambda: ddim(
      _perfect(x0, schedule), start, schedule, np.ones(6), trajectory=True
    ),
  ):
    states = run().states
    for state, alpha in zip(states[:-1], schedule.alpha[1:]):
      noise = (state - alpha * x0) / np.sqrt(1 - alpha**2)
      assert abs(float(jnp.std(noise)) - 1) < 0.03
      assert abs(float(jnp.mean(noise))) < 0.03


def _network(x, t, scale):
  return 0.2 * x * scale + t[:, None, None, None, None] / 1000


def _run(key=None, **kwargs):
  steps = 5
  return dpmpp_2m_sde(
    _network,
    _normal(0),
    sampling_schedule.from_name(steps=steps),
    np.full(steps, 1.5),
    key,
    **kwargs,
  )


def test_the_last_step_adds_no_noise():
  noise = _normal(4, (5, *SHAPE))
  out = _run(step_noise=noise)
  np.testing.assert_array_equal(out, _run(step_noise=noise.at[-1].set(1e3)))
  assert not np.allclose(out, _run(step_noise=noise.at[-2].add(1.0)))


def test_noise_is_a_function_of_key_and_step():
  key = jax.random.key(7)
  noise = jnp.stack(
    [jax.random.normal(jax.random.fold_in(key, i), SHAPE) for i in range(5)]
  )
  out = _run(key)
  # Up to rounding, since the two programs are fused differently.
  np.testing.assert_allclose(out, _run(step_noise=noise), atol=1e-6)
  assert not np.allclose(out, _run(jax.random.key(8)), atol=1e-3)


def test_the_network_receives_float32_timesteps_and_each_scale():
  seen = []

  def network(x, t, scale):
    jax.debug.callback(lambda t, s: seen.append((t, s)), t, scale)
    assert t.dtype == jnp.float32 and t.shape == x.shape[:1]
    return jnp.zeros(x.shape, jnp.bfloat16)

  out = ddim(
    network,
    _normal(0).astype(jnp.bfloat16),
    sampling_schedule.from_name(steps=4),
    np.array([1.0, 2.0, 3.0, 4.0]),
  )
  jax.block_until_ready(out)
  jax.effects_barrier()
  assert out.dtype == jnp.float32
  assert sorted((float(t[0]), float(s)) for t, s in seen) == [
    (249, 4),
    (499, 3),
    (749, 2),
    (999, 1),
  ]


def test_on_step_reports_every_step():
  done = []
  jax.block_until_ready(
    jax.jit(lambda: _run(jax.random.key(0), on_step=done.append))()
  )
  jax.effects_barrier()
  assert sorted(done) == [0, 1, 2, 3, 4]


def test_the_network_is_traced_once():
  traces = []

  def network(x, t, scale):
    traces.append(1)
    return _network(x, t, scale)

  ddim(network, _normal(0), sampling_schedule.from_name(steps=9), np.ones(9))
  assert len(traces) == 1


@pytest.mark.parametrize(
  'call,message',
  [
    (lambda: _run(), 'give key='),
    (lambda: _run(step_noise=jnp.zeros((4, *SHAPE))), r'must be \(5, 2'),
    (
      lambda: ddim(
        _network, _normal(0), sampling_schedule.from_name(steps=5), np.ones(4)
      ),
      r'must be \(5,\)',
    ),
    (
      lambda: ddim(
        _network,
        _normal(0),
        sampling_schedule.from_name(steps=5),
        np.ones(5),
        eta=1.5,
      ),
      '0 to 1',
    ),
    (
      lambda: ddim(
        _network,
        _normal(0),
        sampling_schedule.from_name(steps=5),
        np.ones(5),
        eta=0.5,
      ),
      'give key=',
    ),
  ],
)
def test_bad_input_is_one_line(call, message):
  with pytest.raises(ValueError, match=message) as error:
    call()
  assert '\n' not in str(error.value)
