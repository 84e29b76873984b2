"""The models that can be converted, and which of them a folder contains."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from ttt_jax import backbones
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.convert import clip as convert_clip
from ttt_jax.convert import dit as convert_dit
from ttt_jax.convert import kl_vae as convert_kl_vae
from ttt_jax.convert import model_folder
from ttt_jax.convert import model_format
from ttt_jax.convert import native
from ttt_jax.convert import stable_diffusion
from ttt_jax.convert import t5 as convert_t5
from ttt_jax.convert import unet as convert_unet
from ttt_jax.convert import vae as convert_vae
from ttt_jax.models import dit
from ttt_jax.models.unet3d import unet
from ttt_jax.runtime import schema

FORMATS = {
  module.FORMAT.name: module.FORMAT
  for module in (
    convert_dit,
    convert_vae,
    convert_t5,
    convert_unet,
    convert_kl_vae,
    convert_clip,
  )
}
_SUPPORTED = f'{stable_diffusion.SUPPORTED}; {convert_dit.SUPPORTED}'


def detect_format(folder: pathlib.Path) -> model_format.ModelFormat:
  """Returns the format of a model in the layout of `save_pretrained`.

  Raises:
    FileNotFoundError: the folder has no config.json.
    ValueError: the model is not supported.
  """
  path = folder / 'config.json'
  if not path.is_file():
    reason = model_folder.describe(folder) or (
      'it must be a folder as save_pretrained writes it, one that ttt-jax'
      ' convert wrote, or the folder of a training run'
    )
    raise FileNotFoundError(f'no config.json in {folder}: {reason}')
  found = model_format.read_object(path)
  names = found.get('_class_name') or found.get('architectures') or 'no model'
  names = names if isinstance(names, list) else [names]
  for model in FORMATS.values():
    if any(name in model.class_names for name in names):
      return model
  known = ', '.join(name for m in FORMATS.values() for name in m.class_names)
  other = model_folder.title(names[0])
  raise ValueError(
    f'{path} describes {schema.show(names[0])}{other and f", of {other}"};'
    f' expected one of {known}'
  )


def format_for_config(config: Any) -> model_format.ModelFormat:
  """Returns the format of the model that a config describes."""
  return next(m for m in FORMATS.values() if type(config) is m.config_class)


def native_config(found: native.NativeCheckpoint) -> Any:
  """Returns the config of a converted model.

  Raises:
    ValueError: an unknown model, or a config of another version.
  """
  if found.model not in FORMATS:
    raise ValueError(
      f'{found.model!r} is not a known model; expected one of'
      f' {", ".join(FORMATS)}'
    )
  try:
    return schema.construct(
      FORMATS[found.model].config_class, found.config, 'its config'
    )
  except ValueError as e:
    raise ValueError(
      f'the config of this {found.model} is of another version ({e}); convert'
      ' the model again'
    ) from e


def is_training_run(folder: pathlib.Path) -> bool:
  """Returns whether a folder contains checkpoints of a training run."""
  if (folder / 'config.json').is_file():
    return False
  try:
    checkpoint_format.stage_folder(folder)
  except FileNotFoundError:
    return False
  return True


def load_run(
  folder: pathlib.Path, ema: bool
) -> tuple[dit.DiTConfig | unet.UNet3DConfig, dict[str, Any]]:
  """Returns config and parameters of a training run's newest checkpoint."""
  backbone, params, config = checkpoint.load_network(folder, ema)
  model = backbone.config
  if isinstance(model, dit.DiTConfig) and model.base is None:
    # Frames of the size of the run have positions that count from 0.
    g = backbones.geometry(config)
    model = dataclasses.replace(
      model,
      base_rows=g.latent_height // model.patch_size,
      base_columns=g.latent_width // model.patch_size,
    )
  return model, params


def find_parts(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns name -> folder of the parts of a complete model.

  A folder of one model is the only part, with the name ''.

  Raises:
    ValueError: a complete Stable Diffusion XL or 3.
  """
  model_folder.check_pipeline(folder, _SUPPORTED)
  if not (folder / 'config.json').is_file():
    parts = {
      name: folder / name
      for name in dict.fromkeys(model.part for model in FORMATS.values())
      if (folder / name / 'config.json').is_file()
    }
    if parts:
      return parts
  return {'': folder}
