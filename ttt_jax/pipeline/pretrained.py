"""A whole CogVideoX in diffusers' layout, ready to sample from as it is."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from typing import Any

import jax

from ttt_jax import convert
from ttt_jax import sharding
from ttt_jax.convert import stable_diffusion as convert_scheduler
from ttt_jax.encoders import load_text as text_lib

# Of the videos that CogVideoX-2B and -5B were trained on.
_FPS = 8


def is_model(folder: str | os.PathLike[str]) -> bool:
  """Whether a folder holds a whole model rather than runs of ours."""
  return (pathlib.Path(folder) / 'transformer' / 'config.json').is_file()


def parts(
  folder: str | os.PathLike[str], mesh: jax.sharding.Mesh | None = None
) -> dict[str, Any]:
  """The arguments of `VideoPipeline` for a pre-trained model.

  Weights stay in the types of their files. Where those are half precision the
  networks compute in bfloat16.

  Args:
    folder: with transformer/, vae/, text_encoder/, tokenizer/ and scheduler/.
    mesh: of `sharding.make_mesh`; None is the first device.

  Raises:
    FileNotFoundError: one of the folders or a file in it is missing.
    ValueError: a model that is not supported, or damaged files.
  """
  folder = pathlib.Path(folder)
  scheduler, shift = convert_scheduler.load_scheduler(folder / 'scheduler')
  if mesh is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    place = lambda leaf: device
  else:
    place = functools.partial(sharding.param_sharding, mesh, axes=sharding.AXES)
  config, params = convert.load_dit(folder, sharding=place)
  kinds = {leaf.dtype.name for leaf in jax.tree.leaves(params)}
  dtype = 'float32' if kinds == {'float32'} else 'bfloat16'
  vae = convert.load_vae(folder / 'vae')
  rows, columns = config.base
  side = config.patch_size * vae[0].spatial_compression
  return dict(
    config=dataclasses.replace(config, dtype=dtype),
    params=params,
    vae=vae,
    text_encoder=text_lib.load_text_encoder(
      folder / 'text_encoder',
      config.max_text_length,
      dtype=dtype,
      mesh=mesh,
    ),
    height=rows * side,
    width=columns * side,
    fps=_FPS,
    scheduler=scheduler,
    schedule_shift=shift,
    mesh=mesh,
  )
