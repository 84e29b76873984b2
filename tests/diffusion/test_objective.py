"""The training loss, its random draws, and text dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax.diffusion import objective
from ttt_jax.diffusion.schedule import zero_snr_schedule

SHAPE = (4, 3, 2, 2, 4)


def _normal(seed, shape=SHAPE):
  return jax.random.normal(jax.random.key(seed), shape)


def test_add_noise_and_velocity_are_diffusers(golden):
  data = np.load(golden('diffusers_schedulers.npz'))
  alpha = jnp.asarray(zero_snr_schedule()[data['an_t']])
  x0, noise = jnp.asarray(data['x_init']), jnp.asarray(data['an_noise'])
  np.testing.assert_allclose(
    objective.add_noise(x0, noise, alpha), data['add_noise'], atol=2e-6
  )
  np.testing.assert_allclose(
    objective.velocity(x0, noise, alpha), data['velocity'], atol=2e-6
  )


@pytest.mark.parametrize('case', ['single', 'multi'])
def test_loss_starts_from_the_reference_levels(golden, case):
  """With v_hat = 0 the loss is the mean square of the target."""
  data = np.load(golden('dit_mlp.npz'))
  x0, noise = (
    data[f'{case}_{name}'].astype(np.float64) for name in ('video', 'noise')
  )
  index = data[f'{case}_idx']
  sigma = data[f'{case}_sigma'].astype(np.float64)
  np.testing.assert_allclose(
    zero_snr_schedule()[index], sigma, rtol=0, atol=1e-6
  )
  _, aux = objective.diffusion_loss(
    lambda x, t: jnp.zeros_like(x),
    jnp.asarray(x0, jnp.float32),
    timesteps=index,
    noise=noise,
  )
  sigma = sigma.reshape(-1, 1, 1, 1, 1)
  target = sigma * noise - np.sqrt(1 - sigma**2) * x0
  np.testing.assert_allclose(
    aux['per_sample_loss'], np.mean(target**2, (1, 2, 3, 4)), rtol=1e-5
  )


def test_v_loss_is_the_weighted_x0_loss_with_its_gradient():
  with jax.enable_x64(True):
    schedule = jnp.asarray(zero_snr_schedule(), jnp.float64)
    x0, noise = (jnp.asarray(_normal(i), jnp.float64) for i in (0, 1))
    timesteps = jnp.array([0, 37, 500, 999])
    alpha = schedule[timesteps].reshape(-1, 1, 1, 1, 1)
    network = lambda w, x, t: (
      jnp.tanh(w * x) + t.reshape(-1, 1, 1, 1, 1).astype(x.dtype) / 1000
    )

    def v_loss(w):
      return objective.diffusion_loss(
        lambda x, t: network(w, x, t),
        x0,
        schedule=schedule,
        timesteps=timesteps,
        noise=noise,
      )[0]

    def x0_loss(w):
      x = alpha * x0 + jnp.sqrt(1 - alpha**2) * noise
      denoised = alpha * x - jnp.sqrt(1 - alpha**2) * network(w, x, timesteps)
      return jnp.mean((denoised - x0) ** 2 / (1 - alpha**2))

    w = jnp.linspace(-1, 1, 4, dtype=jnp.float64)
    for ours, theirs in zip(
      jax.value_and_grad(v_loss)(w), jax.value_and_grad(x0_loss)(w)
    ):
      assert ours.dtype == jnp.float64
      np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_a_perfect_network_has_no_loss_at_any_timestep():
  x0, noise = _normal(0), _normal(1)
  timesteps = jnp.array([0, 1, 500, 999])
  alpha = jnp.asarray(zero_snr_schedule())[timesteps]
  loss, aux = objective.diffusion_loss(
    lambda x, t: objective.velocity(x0, noise, alpha),
    x0,
    timesteps=timesteps,
    noise=noise,
  )
  assert loss == 0 and np.all(aux['per_sample_loss'] == 0)


def test_the_loss_of_x0_is_that_of_the_velocity_it_implies():
  with jax.enable_x64(True):
    x0, noise = _normal(0).astype(float), _normal(1).astype(float)
    timesteps = jnp.array([0, 40, 500, 999])
    alpha = jnp.asarray(zero_snr_schedule(shift=16.0), float)[timesteps]
    estimate = 0.7 * x0 + 0.1 * noise
    x_t = objective.add_noise(x0, noise, alpha)
    alpha = alpha.reshape(-1, *[1] * (x0.ndim - 1))
    implied = (alpha * x_t - estimate) / jnp.sqrt(1 - alpha**2)

    def per_sample(output, prediction):
      return objective.diffusion_loss(
        lambda x, t: output,
        x0,
        schedule=zero_snr_schedule(shift=16.0),
        timesteps=timesteps,
        noise=noise,
        prediction=prediction,
      )[1]['per_sample_loss']

    np.testing.assert_allclose(
      per_sample(estimate, 'sample'),
      per_sample(implied, 'v_prediction'),
      rtol=1e-9,
    )


@pytest.mark.parametrize('prediction', ['v_prediction', 'sample'])
def test_the_weight_of_the_error_of_x0_is_limited(prediction):
  x0, noise = _normal(0), _normal(1)
  timesteps = jnp.array([0, 40, 500, 999])
  alpha = jnp.asarray(zero_snr_schedule())[timesteps]

  def per_sample(**options):
    return objective.diffusion_loss(
      lambda x, t: 0.5 * x,
      x0,
      timesteps=timesteps,
      noise=noise,
      prediction=prediction,
      **options,
    )[1]['per_sample_loss']

  weights = 1 / (1 - alpha**2)
  assert weights[1] > 5 > weights[2]
  np.testing.assert_allclose(
    per_sample(x0_weight_limit=5.0),
    per_sample() * np.minimum(5 / weights, 1),
    rtol=1e-5,
  )
  np.testing.assert_array_equal(per_sample(x0_weight_limit=0), per_sample())


def test_the_last_timestep_is_pure_noise():
  x0, noise = _normal(0), _normal(1)

  def network(x, t):
    np.testing.assert_array_equal(x, noise)
    np.testing.assert_array_equal(t, jnp.full(4, 999.0))
    return -x0

  loss, _ = objective.diffusion_loss(
    network, x0, timesteps=jnp.full(4, 999), noise=noise
  )
  assert loss == 0


def test_loss_is_a_function_of_the_key_in_float32():
  def loss(seed, dtype=jnp.float32):
    def network(x, t):
      assert x.dtype == jnp.float32 and t.dtype == jnp.float32
      return (0.1 * x).astype(dtype)

    return objective.diffusion_loss(
      network, _normal(0).astype(dtype), jax.random.key(seed)
    )

  (first, aux), (again, _), (other, _) = loss(1), loss(1), loss(2)
  assert first == again and first != other
  np.testing.assert_allclose(first, jnp.mean(aux['per_sample_loss']))
  assert aux['per_sample_loss'].shape == aux['timesteps'].shape == (4,)
  assert loss(1, jnp.bfloat16)[0].dtype == jnp.float32


@pytest.mark.parametrize('stratified', [False, True])
def test_timesteps_are_uniform(stratified):
  draw = jax.jit(
    jax.vmap(
      lambda key: objective.sample_timesteps(key, 8, stratified=stratified)
    )
  )
  drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
  assert drawn.min() == 0 and drawn.max() == 999
  # Every row of the batch has the complete range.
  counts = np.stack(
    [np.bincount(column * 10 // 1000, minlength=10) for column in drawn.T]
  )
  assert np.all(np.abs(counts - 400) < 6 * 400**0.5)
  if stratified:
    np.testing.assert_array_equal(
      np.sort(drawn, axis=1) // 125,
      np.broadcast_to(np.arange(8), drawn.shape),
    )


def test_posterior_has_its_mean_and_deviation():
  mean = jnp.full((200, 200), 2.0)
  drawn = objective.sample_posterior(
    jax.random.key(0), mean, jnp.full_like(mean, 2 * np.log(0.5))
  )
  assert abs(float(drawn.mean()) - 2) < 0.02
  assert abs(float(drawn.std()) - 0.5) < 0.01
  np.testing.assert_array_equal(
    objective.sample_posterior(
      jax.random.key(0), mean, jnp.full_like(mean, -np.inf)
    ),
    mean,
  )


def test_complete_texts_are_dropped_at_the_rate():
  batch = 5000
  text = _normal(0, (batch, 2, 3, 4))
  null = _normal(1, (3, 4))
  out = jax.jit(objective.drop_text, static_argnums=3)(
    jax.random.key(2), text, null, 0.1
  )
  dropped = np.all(np.asarray(out == null), axis=(1, 2, 3))
  kept = np.all(np.asarray(out == text), axis=(1, 2, 3))
  assert np.all(dropped ^ kept)
  assert abs(dropped.mean() - 0.1) < 4 * (0.09 / batch) ** 0.5
  key = jax.random.key(0)
  np.testing.assert_array_equal(objective.drop_text(key, text, null, 0), text)
  np.testing.assert_array_equal(
    objective.drop_text(key, text, null, 1),
    np.broadcast_to(null, text.shape),
  )


def test_bins_add_up():
  losses = jnp.array([1.0, 2.0, 4.0, 8.0])
  timesteps = jnp.array([0, 99, 100, 999])
  sums, counts = objective.loss_by_timestep(losses, timesteps)
  np.testing.assert_array_equal(sums, [3, 4, 0, 0, 0, 0, 0, 0, 0, 8])
  np.testing.assert_array_equal(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 1])
  sums, counts = objective.loss_by_timestep(losses, timesteps, bins=3)
  assert sums.shape == (3,) and sums.sum() == 15 and counts.sum() == 4


@pytest.mark.parametrize(
  'call,message',
  [
    (lambda: objective.diffusion_loss(None, _normal(0)), 'give key='),
    (
      lambda: objective.diffusion_loss(
        None, _normal(0), prediction='epsilon', x0_weight_limit=5.0
      ),
      'x0_weight_limit is 5.0 .*; set it to 0',
    ),
    (
      lambda: objective.drop_text(
        jax.random.key(0), _normal(0, (1, 1, 2, 3)), _normal(0, (2, 3)), 1.5
      ),
      '0 to 1',
    ),
    (
      lambda: objective.drop_text(
        jax.random.key(0), _normal(0, (1, 1, 2, 3)), _normal(0, (3, 3)), 0.1
      ),
      r'must be \(2, 3\)',
    ),
  ],
)
def test_bad_input_is_one_line(call, message):
  with pytest.raises(ValueError, match=message) as error:
    call()
  assert '\n' not in str(error.value)
