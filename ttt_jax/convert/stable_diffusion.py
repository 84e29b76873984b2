"""Parts and noise schedules of Stable Diffusion and CogVideoX folders."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Annotated, Literal, NamedTuple

import msgspec

from ttt_jax.convert import model_folder
from ttt_jax.convert import model_format
from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert.rules import Rule
from ttt_jax.diffusion import sampling_schedule
from ttt_jax.runtime import schema

SUPPORTED = 'Stable Diffusion 1.x and 2.x are supported'
SCHEDULER = 'scheduler_config.json'

# Noise levels of both models.
_NOISE = {
  'num_train_timesteps': 1000,
  'beta_start': 0.00085,
  'beta_end': 0.012,
  'beta_schedule': 'scaled_linear',
}
# The sampler of the file and its spacing do not matter: DDIM and its inversion
# have timesteps of their own.
_SD_OPTIONS = {'trained_betas': None, 'rescale_betas_zero_snr': False}
# Published name -> (our field, default of DDIM).
_SD_FIELDS = {
  'prediction_type': ('prediction', 'epsilon'),
  'steps_offset': ('offset', 0),
  'set_alpha_to_one': ('ends_clean', True),
}
# Timesteps are always trailing, whatever spacing the file contains: the
# pipeline of CogVideoX overrides it when it samples.
_COGVIDEOX_OPTIONS = _NOISE | {
  'rescale_betas_zero_snr': True,
  'set_alpha_to_one': True,
  'clip_sample': False,
}
_COGVIDEOX_FIELDS = {
  'snr_shift_scale': ('shift', 3.0),
  'prediction_type': ('prediction', 'v_prediction'),
}
_COGVIDEOX_KINDS = {
  'shift': schema.PositiveFloat,
  'prediction': Literal['v_prediction', 'sample'],
}
_COGVIDEOX_SCHEDULERS = {
  'CogVideoXDPMScheduler': 'cogvideox_dpm',
  'CogVideoXDDIMScheduler': 'cogvideox_ddim',
}
_SD_KINDS = {
  'prediction': Literal['epsilon', 'v_prediction'],
  'offset': Annotated[int, msgspec.Meta(ge=0, le=1)],
  'ends_clean': bool,
}


def resnet(source: str, target: str) -> list[Rule]:
  """Returns the rules of a `ResnetBlock`."""
  rules = rules_lib.conv(f'{source}.conv_shortcut', f'{target}/conv_shortcut')
  for i in (1, 2):
    rules += rules_lib.norm(f'{source}.norm{i}', f'{target}/norm{i}')
    rules += rules_lib.conv(f'{source}.conv{i}', f'{target}/conv{i}')
  return rules


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
  model_folder.check_pipeline(folder, SUPPORTED)
  for path in (folder / SCHEDULER, folder / 'scheduler' / SCHEDULER):
    if path.is_file():
      break
  else:
    raise FileNotFoundError(
      f'{folder} has no scheduler: no {SCHEDULER} in it or in scheduler/'
      + model_folder.explain(folder, 'scheduler')
    )
  found = model_format.read_object(path)
  where = f'{path} ({found.get("_class_name", "a scheduler")})'
  # diffusers' defaults are other noise levels.
  model_format.check_fixed(found, _NOISE, where, required=True)
  model_format.check_fixed(found, _SD_OPTIONS, where)
  return Schedule(
    **model_format.read_fields(found, _SD_FIELDS, where, _SD_KINDS)
  )


class CogVideoXSchedule(NamedTuple):
  """Contents of the scheduler's folder of a CogVideoX.

  Attributes:
    scheduler: Name in `diffusion.schedulers`.
    shift: Shift of the noise schedule, 1 for 5B and 3 for 2B.
    prediction: Output of the transformer, 'v_prediction' or 'sample'.
  """

  scheduler: str
  shift: float
  prediction: str


def load_scheduler(folder: str | os.PathLike[str]) -> CogVideoXSchedule:
  """Reads `scheduler_config.json` of a CogVideoX.

  Args:
    folder: Folder with that file.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: another class, or a schedule that is not CogVideoX's.
  """
  path = pathlib.Path(folder) / SCHEDULER
  found = model_format.read_object(path)
  kind = str(found.get('_class_name'))
  if kind not in _COGVIDEOX_SCHEDULERS:
    raise ValueError(
      f'{path} has class {kind[:60]!r}; expected one of'
      f' {", ".join(_COGVIDEOX_SCHEDULERS)}'
    )
  model_format.check_fixed(found, _COGVIDEOX_OPTIONS, str(path))
  fields = model_format.read_fields(
    found, _COGVIDEOX_FIELDS, str(path), _COGVIDEOX_KINDS
  )
  return CogVideoXSchedule(_COGVIDEOX_SCHEDULERS[kind], **fields)


def predicts_sample(folder: str | os.PathLike[str]) -> bool:
  """Returns whether the scheduler of a CogVideoX has the prediction 'sample'.

  Args:
    folder: Folder of the complete model. Without a scheduler in it, the result
      is False.
  """
  path = pathlib.Path(folder) / 'scheduler' / SCHEDULER
  if not path.is_file():
    return False
  return model_format.read_object(path).get('prediction_type') == 'sample'
