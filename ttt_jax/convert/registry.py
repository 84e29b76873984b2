"""The kinds of models that can be converted, by what their config says."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

from ttt_jax import backbones
from ttt_jax.checkpoints import checkpoint
from ttt_jax.convert import clip as convert_clip
from ttt_jax.convert import dit as convert_dit
from ttt_jax.convert import kl_vae as convert_kl_vae
from ttt_jax.convert import lazy_params
from ttt_jax.convert import native
from ttt_jax.convert import stable_diffusion
from ttt_jax.convert import t5 as convert_t5
from ttt_jax.convert import unet as convert_unet
from ttt_jax.convert import vae as convert_vae
from ttt_jax.models import dit
from ttt_jax.models.text import clip
from ttt_jax.models.text import t5
from ttt_jax.models.unet3d import unet
from ttt_jax.models.vae import causal3d
from ttt_jax.models.vae import kl
from ttt_jax.runtime import json_file

UNREAD = lazy_params.UNREAD


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of model.

  Attributes:
    name: in folders of ours.
    part: of a whole model, the name of its folder there.
    config: class of its config.
    classes: what its config.json calls itself.
    load: (folder, *, dtype, sharding, ...) -> (config, params).
    save: takes config=, params=, folder=, dtype=, shard_bytes=.
  """

  name: str
  part: str
  config: Callable[..., Any]
  classes: tuple[str, ...]
  load: Callable[..., tuple[Any, Any]]
  save: Callable[..., None]


def _load_unet(folder, **options):
  """A U-Net as it is, with temporal attention if it has any."""
  temporal = convert_unet.has_temporal(folder)
  return convert_unet.load_unet(folder, temporal=temporal, **options)


KINDS = {
  kind.name: kind
  for kind in (
    Kind(
      'transformer',
      'transformer',
      dit.DiTConfig,
      ('CogVideoXTransformer3DModel',),
      convert_dit.load_dit,
      convert_dit.save_dit,
    ),
    Kind(
      'vae',
      'vae',
      causal3d.CausalVAEConfig,
      ('AutoencoderKLCogVideoX',),
      convert_vae.load_vae,
      convert_vae.save_vae,
    ),
    Kind(
      'text_encoder',
      'text_encoder',
      t5.T5Config,
      ('T5EncoderModel',),
      convert_t5.load_t5,
      convert_t5.save_t5,
    ),
    Kind(
      'unet',
      'unet',
      unet.UNet3DConfig,
      (convert_unet.CLASS,),
      _load_unet,
      convert_unet.save_unet,
    ),
    Kind(
      'kl_vae',
      'vae',
      kl.KLVAEConfig,
      ('AutoencoderKL',),
      convert_kl_vae.load_kl_vae,
      convert_kl_vae.save_kl_vae,
    ),
    Kind(
      'clip',
      'text_encoder',
      clip.CLIPTextConfig,
      ('CLIPTextModel',),
      convert_clip.load_clip,
      convert_clip.save_clip,
    ),
  )
}


def of_folder(folder: pathlib.Path) -> Kind:
  """The kind of the model in a folder as `save_pretrained` writes it.

  Raises:
    FileNotFoundError: no config.json.
    ValueError: a model that is not known.
  """
  path = folder / 'config.json'
  if not path.is_file():
    raise FileNotFoundError(
      f'no config.json in {folder}: it must be a folder as save_pretrained'
      ' writes it, one that python -m ttt_jax.convert wrote, or the folder'
      ' of a training run'
    )
  found = json_file.read(path)
  found = found if isinstance(found, dict) else {}
  names = [found.get('_class_name'), *(found.get('architectures') or ())]
  for kind in KINDS.values():
    if set(names) & set(kind.classes):
      return kind
  known = ', '.join(name for kind in KINDS.values() for name in kind.classes)
  raise ValueError(
    f'{path} describes {names[0] or names[1:] or "no model"}; known are {known}'
  )


def config_of(found: native.Tree) -> Any:
  """The config of a folder of ours.

  Raises:
    ValueError: a model or a config of another version.
  """
  if found.model not in KINDS:
    raise ValueError(
      f'{found.model!r} is no model that is known; known are {", ".join(KINDS)}'
    )
  fields = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in found.config.items()
  }
  try:
    return KINDS[found.model].config(**fields)
  except TypeError as e:
    raise ValueError(
      f'the config of this {found.model} is of another version ({e}); convert'
      ' the model again'
    ) from e


def is_run(folder: pathlib.Path) -> bool:
  """Whether training has saved something in `folder`."""
  if (folder / 'config.json').is_file():
    return False
  try:
    checkpoint.stage_folder(folder)
  except FileNotFoundError:
    return False
  return True


def load_run(
  folder: pathlib.Path, ema: bool
) -> tuple[dit.DiTConfig | unet.UNet3DConfig, dict[str, Any]]:
  """Config and parameters of the newest checkpoint of a training run."""
  params, config = checkpoint.load_params(folder, ema)
  model = backbones.of(config).config
  if isinstance(model, dit.DiTConfig) and model.base is None:
    # Counting rows from 0 is what the frames of the run's size get.
    g = backbones.geometry(config)
    model = dataclasses.replace(
      model,
      base_rows=g.latent_height // model.patch_size,
      base_columns=g.latent_width // model.patch_size,
    )
  return model, params


def of_config(config: Any) -> Kind:
  """The kind of the model that a config describes."""
  return next(k for k in KINDS.values() if type(config) is k.config)


def parts_of(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Name -> folder of the models in `folder`: itself, or those of a whole.

  Raises:
    ValueError: a whole Stable Diffusion XL or 3.
  """
  stable_diffusion.check_generation(folder)
  if not (folder / 'config.json').is_file():
    parts = {
      name: folder / name
      for name in dict.fromkeys(kind.part for kind in KINDS.values())
      if (folder / name / 'config.json').is_file()
    }
    if parts:
      return parts
  return {'': folder}
