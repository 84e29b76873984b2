"""The `scheduler_config.json` of a CogVideoX folder in diffusers' layout."""

from __future__ import annotations

import os
import pathlib

from ttt_jax import json_file

NAME = 'scheduler_config.json'

_CLASSES = {
  'CogVideoXDPMScheduler': 'cogvideox_dpm',
  'CogVideoXDDIMScheduler': 'cogvideox_ddim',
}
# What our schedule is. Steps are always trailing, whatever the file says of
# their spacing: CogVideoX asks for it when it samples.
_FIXED = {
  'num_train_timesteps': 1000,
  'beta_start': 0.00085,
  'beta_end': 0.012,
  'beta_schedule': 'scaled_linear',
  'prediction_type': 'v_prediction',
  'rescale_betas_zero_snr': True,
  'set_alpha_to_one': True,
  'clip_sample': False,
}


def load_scheduler(folder: str | os.PathLike[str]) -> tuple[str, float]:
  """What a scheduler's folder says.

  Args:
    folder: with scheduler_config.json.

  Returns:
    The scheduler's name, see `diffusion.schedulers`, and the shift of the
    noise schedule (1 for 5B, 3 for 2B).

  Raises:
    FileNotFoundError: no such file.
    ValueError: another class, or a schedule that is not CogVideoX's.
  """
  path = pathlib.Path(folder) / NAME
  found = json_file.read(path)
  kind = found.get('_class_name') if isinstance(found, dict) else None
  if kind not in _CLASSES:
    raise ValueError(
      f'{path} is of class {kind!r}; supported are {", ".join(_CLASSES)}'
    )
  wrong = [
    f'{name} = {found[name]!r} instead of {value!r}'
    for name, value in _FIXED.items()
    if found.get(name, value) != value
  ]
  if wrong:
    raise ValueError(f'{path} is no schedule of CogVideoX: {", ".join(wrong)}')
  return _CLASSES[kind], float(found.get('snr_shift_scale', 3.0))
