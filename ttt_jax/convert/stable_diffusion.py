"""What the parts of a Stable Diffusion folder in diffusers' layout share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import os
import pathlib
from typing import Any

from ttt_jax.convert import rules as rules_lib
from ttt_jax.convert.rules import Rule
from ttt_jax.diffusion import grid as grid_lib
from ttt_jax.diffusion import schedule as schedule_lib
from ttt_jax.runtime import json_file

SUPPORTED = 'Stable Diffusion 1.x and 2.x are supported'

_INDEX = 'model_index.json'
_SCHEDULER = 'scheduler_config.json'
_OTHERS = {
  'StableDiffusionXL': 'Stable Diffusion XL',
  'StableDiffusion3': 'Stable Diffusion 3',
}
# What our schedule is; files that leave one of them out mean another value.
_SCHEDULE = {
  'num_train_timesteps': 1000,
  'beta_start': 0.00085,
  'beta_end': 0.012,
  'beta_schedule': 'scaled_linear',
}
# What only one value of is supported, which is also what a file without it
# means.
_SCHEDULE_OPTIONS = {
  'trained_betas': None,
  'rescale_betas_zero_snr': False,
  'timestep_spacing': 'leading',
}


def conv(source: str, target: str) -> list[Rule]:
  """The rules of a 2-D convolution: features first there, last here."""
  return [
    Rule(f'{source}.weight', f'{target}/kernel', (2, 3, 1, 0)),
    Rule(f'{source}.bias', f'{target}/bias'),
  ]


def resnet(source: str, target: str) -> list[Rule]:
  """The rules of a `ResnetBlock`."""
  rules = conv(f'{source}.conv_shortcut', f'{target}/conv_shortcut')
  for i in (1, 2):
    rules += rules_lib.norm(f'{source}.norm{i}', f'{target}/norm{i}')
    rules += conv(f'{source}.conv{i}', f'{target}/conv{i}')
  return rules


def find_part(folder: str | os.PathLike[str], part: str) -> pathlib.Path:
  """The folder of a part of a model, with its `config.json`.

  Args:
    folder: that folder, or the whole model's with `part` in it.
    part: 'unet', 'vae' or 'text_encoder'.

  Raises:
    FileNotFoundError: neither.
    ValueError: the folder is of Stable Diffusion XL or 3.
  """
  folder = pathlib.Path(folder)
  check_generation(folder)
  for place in (folder, folder / part):
    if (place / 'config.json').is_file():
      return place
  raise FileNotFoundError(
    f'{folder} has no {part}: neither config.json nor {part}/config.json is'
    ' there; a Stable Diffusion folder has unet, vae, text_encoder,'
    ' tokenizer and scheduler'
  )


def is_whole(folder: pathlib.Path) -> bool:
  """Whether the folder is a whole model's, with its parts in it."""
  return (folder / _INDEX).is_file()


def check_generation(folder: pathlib.Path) -> None:
  """Raises ValueError for the folder of a whole XL or 3."""
  if is_whole(folder):
    found = read_config(folder / _INDEX)
    name = str(found.get('_class_name'))
    for prefix, title in _OTHERS.items():
      if name.startswith(prefix):
        raise ValueError(f'{folder} is {title} ({name}): {SUPPORTED}')


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """The JSON object of a file; ValueError if it holds something else."""
  found = json_file.read(path)
  if not isinstance(found, dict):
    raise ValueError(f'{path} holds no JSON object')
  return found


def check_class(found: Mapping[str, Any], name: str, what: str) -> None:
  """Raises ValueError unless a config is of the class `name`."""
  if found.get('_class_name', name) != name:
    raise ValueError(
      f'{what} describes a {found["_class_name"]}: only {name} can be loaded;'
      f' {SUPPORTED}'
    )


def check_fixed(
  found: Mapping[str, Any], fixed: Mapping[str, Any], what: str
) -> None:
  """Raises ValueError for an option of which we have one value alone."""
  for key, value in fixed.items():
    if found.get(key, value) != value:
      raise ValueError(
        f'{what} has {key} = {found[key]!r}: only {value!r} is supported'
      )


def check_sizes(
  found: Mapping[str, Any],
  names: Iterable[str],
  what: str,
  lists: Iterable[str] = (),
) -> None:
  """Raises ValueError for a size that is none.

  Args:
    found: content of a config.json.
    names: that have a number.
    what: name of the file.
    lists: that have a list of numbers.
  """
  is_size = lambda n: type(n) is int and n > 0
  for name in names:
    if not is_size(found.get(name)):
      raise ValueError(
        f'{what}: {name} is {found.get(name)!r}; it must be a whole number'
        ' above 0'
      )
  for name in lists:
    value = found.get(name)
    if not isinstance(value, list) or not value or not all(map(is_size, value)):
      raise ValueError(
        f'{what}: {name} is {value!r}; it must be a list of whole numbers'
        ' above 0'
      )


@dataclasses.dataclass(frozen=True)
class Schedule:
  """What a scheduler's folder says; the noise levels are always SD's.

  Attributes:
    prediction: of the U-Net, 'epsilon' or 'v_prediction'.
    offset: of the timesteps.
    ends_clean: see `grid_lib.leading_grid`.
  """

  prediction: str
  offset: int
  ends_clean: bool

  def grid(self, steps: int) -> grid_lib.SamplingGrid:
    """The grid of DDIM and its inversion."""
    return grid_lib.leading_grid(
      steps, offset=self.offset, ends_clean=self.ends_clean
    )


def load_schedule(folder: str | os.PathLike[str]) -> Schedule:
  """Reads `scheduler_config.json`, whatever scheduler it is written for.

  Args:
    folder: with that file, or the whole model's with `scheduler` in it.

  Raises:
    FileNotFoundError: no such file.
    ValueError: noise levels that are not Stable Diffusion's, or an unknown
      prediction.
  """
  folder = pathlib.Path(folder)
  check_generation(folder)
  for place in (folder / _SCHEDULER, folder / 'scheduler' / _SCHEDULER):
    if place.is_file():
      break
  else:
    raise FileNotFoundError(
      f'{folder} has no scheduler: neither {_SCHEDULER} nor'
      f' scheduler/{_SCHEDULER} is there'
    )
  found = read_config(place)
  wrong = [
    f'{name} = {found.get(name)!r} instead of {value!r}'
    for name, value in _SCHEDULE.items()
    if found.get(name) != value
  ]
  if wrong:
    raise ValueError(
      f'{place} is no schedule of Stable Diffusion: {", ".join(wrong)}'
    )
  check_fixed(found, _SCHEDULE_OPTIONS, str(place))
  prediction = found.get('prediction_type', 'epsilon')
  if prediction not in schedule_lib.PREDICTIONS:
    raise ValueError(
      f'{place} has prediction_type = {prediction!r}; supported are'
      f' {", ".join(schedule_lib.PREDICTIONS)}'
    )
  offset = found.get('steps_offset', 0)
  if offset not in (0, 1):
    raise ValueError(
      f'{place} has steps_offset = {offset!r}; supported are 0, 1'
    )
  # DDIM takes a file without the field for one that says True.
  return Schedule(prediction, offset, found.get('set_alpha_to_one', True))


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
