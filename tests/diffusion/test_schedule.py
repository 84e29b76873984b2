"""The noise schedule and the sampling schedules."""

import numpy as np
import pytest

from ttt_jax.diffusion import sampling_schedule
from ttt_jax.diffusion.schedule import zero_snr_schedule


@pytest.mark.parametrize('shift', [1, 3])
def test_schedule_is_the_reference_table(golden, shift):
  data = np.load(golden('schedule_sampler.npz'))
  table = zero_snr_schedule(shift=shift)
  np.testing.assert_allclose(
    table, data[f'shift{shift}_sigmas_1000'], rtol=0, atol=1e-6
  )
  diffusers = np.load(golden('diffusers_schedulers.npz'))
  np.testing.assert_allclose(
    table.astype(np.float64) ** 2,
    diffusers[f'alphas_cumprod_shift{shift}'],
    rtol=0,
    atol=1e-6,
  )


@pytest.mark.parametrize('num,shift', [(1000, 1.0), (1000, 3.0), (7, 0.5)])
def test_schedule_decreases_to_exactly_zero(num, shift):
  table = zero_snr_schedule(num, shift)
  assert table.dtype == np.float32 and table.shape == (num,)
  assert table[-1] == 0 and 0.99 < table[0] < 1
  assert np.all(np.diff(table) < 0)


def test_shift_divides_the_signal_to_noise_ratio():
  plain, shifted = (
    zero_snr_schedule(shift=s).astype(np.float64) ** 2 for s in (1, 3)
  )
  # At the first timestep, where the zero-SNR rescale changes almost nothing.
  np.testing.assert_allclose(
    plain[0] / (1 - plain[0]), 3 * shifted[0] / (1 - shifted[0]), rtol=1e-3
  )


@pytest.mark.parametrize('shift', [1, 3])
@pytest.mark.parametrize('steps', [20, 50])
def test_reference_schedule_is_the_reference_subset(golden, steps, shift):
  data = np.load(golden('schedule_sampler.npz'))
  levels = sampling_schedule.from_name('reference', steps, shift)
  np.testing.assert_array_equal(
    levels.timesteps, data[f'timesteps_{steps}'][::-1]
  )
  np.testing.assert_allclose(
    levels.alpha,
    data[f'shift{shift}_sigmas_{steps}'],
    rtol=0,
    atol=1e-6,
  )


@pytest.mark.parametrize('tag,steps,shift', [('a', 50, 1), ('b', 20, 3)])
def test_reference_schedule_snaps_the_denoiser(golden, tag, steps, shift):
  data = np.load(golden('schedule_sampler.npz'))
  levels = sampling_schedule.from_name('reference', steps, shift)
  np.testing.assert_allclose(
    levels.denoiser_alpha,
    data[f'sampler_{tag}_sigma_quantised'],
    rtol=0,
    atol=1e-6,
  )


@pytest.mark.parametrize('steps', [10, 50])
def test_diffusers_timesteps_are_trailing(golden, steps):
  data = np.load(golden('diffusers_schedulers.npz'))
  levels = sampling_schedule.from_name('diffusers', steps)
  assert levels.timesteps.dtype == np.float32
  np.testing.assert_array_equal(
    levels.timesteps, data[f'timesteps_trailing_{steps}']
  )


@pytest.mark.parametrize(
  'name,steps',
  [
    ('diffusers', 1),
    ('diffusers', 8),
    ('diffusers', 1000),
    ('reference', 2),
    ('reference', 7),
    ('reference', 1000),
  ],
)
def test_schedules_go_from_noise_to_clean(name, steps):
  levels = sampling_schedule.from_name(name, steps)
  assert levels.steps == steps
  assert levels.timesteps[0] == 999
  assert levels.alpha[0] == 0 and levels.next_alpha[-1] == 1
  assert np.all(np.diff(levels.alpha) > 0)
  assert np.all(np.diff(levels.timesteps) < 0)
  # Each step ends where the next one starts.
  np.testing.assert_array_equal(levels.alpha[1:], levels.next_alpha[:-1])


@pytest.mark.parametrize('steps', [6, 7, 30, 333])
def test_levels_of_diffusers_where_steps_do_not_divide(steps):
  table = np.append(zero_snr_schedule(), 1.0)
  levels = sampling_schedule.from_name('diffusers', steps)
  t = levels.timesteps.astype(int)
  ends = np.maximum(t - 1000 // steps, -1)
  np.testing.assert_allclose(levels.alpha, table[t], atol=1e-7)
  np.testing.assert_allclose(levels.next_alpha, table[ends], atol=1e-7)
  assert np.any(levels.alpha[1:] != levels.next_alpha[:-1])


def test_equal_arguments_give_the_same_schedule():
  assert sampling_schedule.from_name(
    'diffusers', 5
  ) is sampling_schedule.from_name(steps=5, shift=1)
  assert sampling_schedule.from_name(
    steps=5
  ) is not sampling_schedule.from_name(steps=6)


@pytest.mark.parametrize(
  'call,message',
  [
    (lambda: zero_snr_schedule(1), 'at least 2'),
    (lambda: zero_snr_schedule(shift=0.0), 'positive'),
    (lambda: zero_snr_schedule(shift=float('nan')), 'finite'),
    (
      lambda: sampling_schedule.from_name('karras'),
      'expected one of diffusers, reference',
    ),
    (lambda: sampling_schedule.from_name(steps=0), '1 to 1000'),
    (lambda: sampling_schedule.from_name(steps=1001), '1 to 1000'),
    (lambda: sampling_schedule.from_name('reference', 1), '2 to 1000'),
  ],
)
def test_bad_input_is_one_line(call, message):
  with pytest.raises(ValueError, match=message) as error:
    call()
  assert '\n' not in str(error.value)
