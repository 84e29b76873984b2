"""scheduler_config.json: the scheduler, and the shift of its schedule."""

import json

import pytest

from ttt_jax.convert import stable_diffusion

RELEASED = {
  '_class_name': 'CogVideoXDPMScheduler',
  '_diffusers_version': '0.30.0',
  'beta_end': 0.012,
  'beta_schedule': 'scaled_linear',
  'beta_start': 0.00085,
  'clip_sample': False,
  'clip_sample_range': 1.0,
  'num_train_timesteps': 1000,
  'prediction_type': 'v_prediction',
  'rescale_betas_zero_snr': True,
  'sample_max_value': 1.0,
  'set_alpha_to_one': True,
  'snr_shift_scale': 1.0,
  'steps_offset': 0,
  'timestep_spacing': 'trailing',
  'trained_betas': None,
}


def load(tmp_path, **changes):
  (tmp_path / stable_diffusion.SCHEDULER).write_text(
    json.dumps({**RELEASED, **changes})
  )
  return stable_diffusion.load_scheduler(tmp_path)


def test_the_two_released_schedulers(tmp_path):
  assert load(tmp_path) == ('cogvideox_dpm', 1.0, 'v_prediction')
  changes = {
    '_class_name': 'CogVideoXDDIMScheduler',
    'snr_shift_scale': 3.0,
    'timestep_spacing': 'linspace',
  }
  assert load(tmp_path, **changes) == ('cogvideox_ddim', 3.0, 'v_prediction')
  assert load(tmp_path, prediction_type='sample').prediction == 'sample'


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'_class_name': 'EulerDiscreteScheduler'},
      "class 'EulerDiscreteScheduler'; expected one of CogVideoXDPMScheduler",
    ),
    (
      {'beta_end': 0.02, 'set_alpha_to_one': False},
      'beta_end = 0.02: only 0.012 is supported; set_alpha_to_one = False: ',
    ),
    (
      {'prediction_type': 'epsilon'},
      'prediction_type is "epsilon"; expected one of v_prediction, sample',
    ),
  ],
)
def test_refusals(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message) as e:
    load(tmp_path, **changes)
  assert '\n' not in str(e.value)


def test_a_missing_or_invalid_file(tmp_path):
  with pytest.raises(FileNotFoundError, match='scheduler_config.json'):
    stable_diffusion.load_scheduler(tmp_path)
  (tmp_path / stable_diffusion.SCHEDULER).write_text('[]')
  with pytest.raises(ValueError, match='does not contain a JSON object'):
    stable_diffusion.load_scheduler(tmp_path)
