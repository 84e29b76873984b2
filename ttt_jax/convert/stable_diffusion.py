"""Parts and noise schedules of Stable Diffusion and CogVideoX folders."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from ttt_jax.convert import model_format
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert.rules import Rule
from ttt_jax.diffusion import sampling_schedule
from ttt_jax.diffusion import schedule as schedule_lib

SUPPORTED = 'Stable Diffusion 1.x and 2.x are supported'
SCHEDULER = 'scheduler_config.json'

_INDEX = 'model_index.json'
_OTHERS = {
  'StableDiffusionXL': 'Stable Diffusion XL',
  'StableDiffusion3': 'Stable Diffusion 3',
}
# Noise levels of both models.
_NOISE = {
  'num_train_timesteps': 1000,
  'beta_start': 0.00085,
  'beta_end': 0.012,
  'beta_schedule': 'scaled_linear',
}
_SD_OPTIONS = {
  'trained_betas': None,
  'rescale_betas_zero_snr': False,
  'timestep_spacing': 'leading',
}
# Timesteps are always trailing, whatever spacing the file contains: the
# pipeline of CogVideoX overrides it when it samples.
_COGVIDEOX_OPTIONS = _NOISE | {
  'prediction_type': 'v_prediction',
  'rescale_betas_zero_snr': True,
  'set_alpha_to_one': True,
  'clip_sample': False,
}
_COGVIDEOX_SCHEDULERS = {
  'CogVideoXDPMScheduler': 'cogvideox_dpm',
  'CogVideoXDDIMScheduler': 'cogvideox_ddim',
}


def resnet(source: str, target: str) -> list[Rule]:
  """Returns the rules of a `ResnetBlock`."""
  rules = rules_lib.conv(f'{source}.conv_shortcut', f'{target}/conv_shortcut')
  for i in (1, 2):
    rules += rules_lib.norm(f'{source}.norm{i}', f'{target}/norm{i}')
    rules += rules_lib.conv(f'{source}.conv{i}', f'{target}/conv{i}')
  return rules


def find_part(folder: str | os.PathLike[str], part: str) -> pathlib.Path:
  """Returns the folder of a part of a model, which contains `config.json`.

  Args:
    folder: Folder of the part, or of the complete model.
    part: Name of the part: 'unet', 'vae' or 'text_encoder'.

  Raises:
    FileNotFoundError: neither folder contains the part.
    ValueError: the model is a Stable Diffusion XL or 3.
  """
  folder = pathlib.Path(folder)
  check_generation(folder)
  for path in (folder, folder / part):
    if (path / 'config.json').is_file():
      return path
  raise FileNotFoundError(
    f'{folder} has no {part}: neither config.json nor {part}/config.json'
    ' exists; a Stable Diffusion folder has unet, vae, text_encoder,'
    ' tokenizer and scheduler'
  )


def is_complete(folder: pathlib.Path) -> bool:
  """Returns whether a folder contains a complete model, with its parts."""
  return (folder / _INDEX).is_file()


def check_generation(folder: pathlib.Path) -> None:
  """Raises ValueError for the folder of a complete XL or 3."""
  if is_complete(folder):
    name = str(model_format.read_object(folder / _INDEX).get('_class_name'))
    for prefix, title in _OTHERS.items():
      if name.startswith(prefix):
        raise ValueError(f'{folder} is {title} ({name}): {SUPPORTED}')


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Contents of a scheduler's folder; the noise levels are always SD's.

  Attributes:
    prediction: Output of the U-Net, 'epsilon' or 'v_prediction'.
    offset: Offset of the timesteps, 0 or 1.
    ends_clean: Whether sampling ends without noise; see
      `sampling_schedule.leading`.
  """

  prediction: str
  offset: int
  ends_clean: bool

  def sampling(self, steps: int) -> sampling_schedule.SamplingSchedule:
    """Returns the sampling schedule of DDIM and its inversion."""
    return sampling_schedule.leading(
      steps, offset=self.offset, ends_clean=self.ends_clean
    )


def load_schedule(folder: str | os.PathLike[str]) -> Schedule:
  """Reads `scheduler_config.json` of a Stable Diffusion, of any scheduler.

  Args:
    folder: Folder with that file, or of a complete model with `scheduler`.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the noise levels are not Stable Diffusion's, or the prediction
      is unknown.
  """
  folder = pathlib.Path(folder)
  check_generation(folder)
  for path in (folder / SCHEDULER, folder / 'scheduler' / SCHEDULER):
    if path.is_file():
      break
  else:
    raise FileNotFoundError(
      f'{folder} has no scheduler: neither {SCHEDULER} nor'
      f' scheduler/{SCHEDULER} exists'
    )
  found = model_format.read_object(path)
  # diffusers' defaults are other noise levels.
  model_format.check_fixed(found, _NOISE, str(path), required=True)
  model_format.check_fixed(found, _SD_OPTIONS, str(path))
  prediction = found.get('prediction_type', 'epsilon')
  if prediction not in schedule_lib.PREDICTIONS:
    raise ValueError(
      f'{path} has prediction_type = {prediction!r}; expected one of'
      f' {", ".join(schedule_lib.PREDICTIONS)}'
    )
  offset = found.get('steps_offset', 0)
  if offset not in (0, 1):
    raise ValueError(
      f'{path} has steps_offset = {offset!r}; expected one of 0, 1'
    )
  # DDIM's default for the last field is True.
  return Schedule(prediction, offset, found.get('set_alpha_to_one', True))


def load_scheduler(folder: str | os.PathLike[str]) -> tuple[str, float]:
  """Reads `scheduler_config.json` of a CogVideoX.

  Args:
    folder: Folder with that file.

  Returns:
    The scheduler's name, see `diffusion.schedulers`, and the shift of the
    noise schedule (1 for 5B, 3 for 2B).

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: another class, or a schedule that is not CogVideoX's.
  """
  path = pathlib.Path(folder) / SCHEDULER
  found = model_format.read_object(path)
  kind = found.get('_class_name')
  if kind not in _COGVIDEOX_SCHEDULERS:
    raise ValueError(
      f'{path} has class {kind!r}; expected one of'
      f' {", ".join(_COGVIDEOX_SCHEDULERS)}'
    )
  model_format.check_fixed(found, _COGVIDEOX_OPTIONS, str(path))
  shift = float(found.get('snr_shift_scale', 3.0))
  return _COGVIDEOX_SCHEDULERS[kind], shift
