"""Loads a pre-trained CogVideoX in diffusers' layout for sampling."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from typing import Any

from etils import epath
import jax

from ttt_jax import convert
from ttt_jax import sharding
from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.convert import dit as convert_dit
from ttt_jax.convert import model_folder
from ttt_jax.convert import stable_diffusion
from ttt_jax.encoders import load_text as text_lib
from ttt_jax.pipeline.sampling import Sampling
from ttt_jax.runtime import files
from ttt_jax.runtime import schema

# Of the videos that CogVideoX-2B and -5B were trained on.
_FPS = 8


def is_pretrained(folder: str | os.PathLike[str]) -> bool:
  """Returns whether a folder contains a model instead of a training run."""
  return (pathlib.Path(folder) / 'transformer' / 'config.json').is_file()


def run_folder(folder: str | os.PathLike[str]) -> epath.Path | None:
  """Returns the workdir of the training run that `VideoPipeline.load` loads.

  Args:
    folder: As for `VideoPipeline.load`.

  Returns:
    None for a pre-trained model, and if there is no checkpoint, which is an
    error of loading.
  """
  if is_pretrained(folder):
    return None
  try:
    return checkpoint_format.stage_folder(folder).parent
  except FileNotFoundError:
    return None


def pipeline_arguments(
  folder: str | os.PathLike[str], mesh: jax.sharding.Mesh | None = None
) -> dict[str, Any]:
  """Returns the arguments of `VideoPipeline` for a pre-trained model.

  Weights keep the dtypes of their files. The networks compute in bfloat16
  unless all weights of the transformer are float32, or float16 on a CPU.

  Args:
    folder: Folder with transformer/, vae/, text_encoder/, tokenizer/ and
      scheduler/.
    mesh: Mesh over which the networks are split; None is the first device.

  Raises:
    FileNotFoundError: one of the folders or a file in it is missing.
    ValueError: the model is not supported, or a file is damaged.
  """
  folder = pathlib.Path(folder)
  model_folder.check_pipeline(folder, convert_dit.SUPPORTED)
  schedule = stable_diffusion.load_scheduler(folder / 'scheduler')
  if mesh is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    param_sharding = lambda leaf: device
  else:
    param_sharding = functools.partial(
      sharding.param_sharding, mesh, axes=sharding.AXES
    )
  config, params = convert.load_dit(folder, sharding=param_sharding)
  dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(params)}
  exact = {'float32'}
  if jax.default_backend() == 'cpu':
    exact.add('float16')
  dtype = 'float32' if dtypes <= exact else 'bfloat16'
  vae = convert.load_vae(folder / 'vae')
  pixels = config.patch_size * vae[0].spatial_compression  # per token, side
  return dict(
    config=dataclasses.replace(config, dtype=dtype),
    params=sharding.copy_for_sampling(mesh, params),
    vae=vae,
    text_encoder=text_lib.load_text_encoder(
      folder / 'text_encoder',
      config.max_text_length,
      dtype=dtype,
      mesh=mesh,
    ),
    height=config.base_rows * pixels,
    width=config.base_columns * pixels,
    **_own_settings(folder),
    scheduler=schedule.scheduler,
    schedule_shift=schedule.shift,
    mesh=mesh,
  )


def _own_settings(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the arguments of the pipeline that a model's index may contain.

  A model that differs from CogVideoX has '_fps' or '_sampling' there, which
  diffusers ignores.
  """
  path = folder / model_folder.INDEX
  found = files.read_json(path) if path.is_file() else {}
  return {
    name: schema.convert(
      found.get(f'_{name}', default), kind, f'_{name} of {path}'
    )
    for name, kind, default in (
      ('fps', schema.PositiveInt, _FPS),
      ('sampling', Sampling, {}),
    )
  }
