"""The weights that a fresh stage starts from: of a stage, or pre-trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp

from ttt_jax import geometry as geometry_lib
from ttt_jax.checkpoints import checkpoint
from ttt_jax.convert import dit as convert_dit
from ttt_jax.convert import lazy_params
from ttt_jax.convert import native
from ttt_jax.convert import registry
from ttt_jax.convert import unet as convert_unet
from ttt_jax.models import dit
from ttt_jax.models.unet3d import unet
from ttt_jax.runtime import json_file

# Fields of the network that make other numbers of the same weights.
_FIELDS = (
  'model_dim',
  'num_heads',
  'num_layers',
  'time_embed_dim',
  'text_dim',
  'in_channels',
  'out_channels',
  'patch_size',
  'norm_eps',
  'qk_norm_eps',
  'rope_theta',
  'positions',
)
_SINCOS_FIELDS = ('spatial_scale', 'temporal_scale')
_TTT_FIELDS = ('mixer', 'mini_batch', 'ttt_base_lr')
_UNET_FIELDS = (
  'in_channels',
  'out_channels',
  'block_out_channels',
  'layers_per_block',
  'cross_attention',
  'num_heads',
  'text_dim',
  'norm_num_groups',
  'norm_eps',
  'use_linear_projection',
  'prediction',
)
_NAMES = {dit.DiTConfig: 'transformer', unet.UNet3DConfig: 'U-Net'}


@dataclasses.dataclass(frozen=True)
class Source:
  """Where weights come from.

  Attributes:
    folder: that holds them.
    load: gives the nested float32 parameters, each with the sharding that
      the callable says for its shape.
    config: of the network that they belong to; None for a stage of ours,
      whose shapes are compared when it is loaded.
    identity: gives what latents and texts were to them, see
      `manifest.Manifest.identity`; None for pre-trained weights.
  """

  folder: epath.Path
  load: Callable[[Callable[..., Any]], Any]
  config: dit.DiTConfig | unet.UNet3DConfig | None = None
  identity: Callable[[], Mapping[str, Any] | None] = lambda: None


def find(folder: epath.Path, stage: str) -> Source:
  """The weights in a folder, looked at but not read.

  Args:
    folder: of a transformer, a U-Net or a whole model as `save_pretrained`
      writes it or as `ttt_jax.convert` does, of a stage, or of all stages:
      then the one saved last.
    stage: that starts from them, for messages.

  Raises:
    FileNotFoundError: none of these, or a file of the model is missing.
    ValueError: a model that is not supported, or that is damaged.
  """
  for place in (folder, folder / 'transformer', folder / 'unet'):
    if native.is_tree(place):
      return _of_tree(place)
    if (place / 'config.json').is_file():
      return _of_model(place)
  try:
    folder = checkpoint.stage_folder(folder)
  except FileNotFoundError as e:
    raise FileNotFoundError(
      f'stage {stage} starts from weights in {folder}, but there are none;'
      ' train that stage first, name the folder of a transformer, or set'
      ' --config.previous_stage= to start from random weights'
    ) from e
  return Source(
    folder,
    lambda sharding: checkpoint.load_params(folder, sharding=sharding)[0],
    identity=lambda: checkpoint.load_data(folder)['identity'],
  )


def _of_tree(folder):
  found = native.read(folder)
  if found.model not in ('transformer', 'unet'):
    raise ValueError(
      f'{folder} holds a {found.model}; training starts from a transformer or'
      ' a unet'
    )
  return Source(
    folder,
    lambda sharding: found.params(jnp.float32, sharding),
    registry.config_of(found),
  )


def _of_model(folder):
  # Files and shapes are checked here, before any device has to do with it.
  found = json_file.read(folder / 'config.json')
  if isinstance(found, dict) and found.get('_class_name') == convert_unet.CLASS:
    # New temporal attention is drawn with all that is new.
    config, params = convert_unet.load_unet(
      folder,
      temporal=convert_unet.has_temporal(folder),
      sharding=lazy_params.UNREAD,
    )
  else:
    config, params = convert_dit.load_dit(folder, sharding=lazy_params.UNREAD)
  return Source(
    folder,
    lambda sharding: jax.tree.map(
      lambda leaf: lazy_params.place(leaf, jnp.float32, sharding), params
    ),
    config,
  )


def check(
  source: Source,
  config: dit.DiTConfig | unet.UNet3DConfig,
  geometry: geometry_lib.Geometry | geometry_lib.FrameGeometry,
) -> None:
  """Raises ValueError if a network would not do with the weights as theirs.

  Args:
    source: of the weights.
    config: of the network.
    geometry: of its clips.
  """
  theirs = source.config
  if theirs is None:
    return
  if type(theirs) is not type(config):
    raise ValueError(
      f'the weights in {source.folder} are of a {_NAMES[type(theirs)]}, but'
      f' this config trains a {_NAMES[type(config)]}; name the folder of one'
      ' in --config.init_from'
    )
  names = list(_UNET_FIELDS)
  if isinstance(config, dit.DiTConfig):
    names = _transformer_fields(theirs, config, geometry.grid)
  differ = [
    f'{name} = {getattr(theirs, name)!r} there,'
    f' {getattr(config, name)!r} in config.model'
    for name in names
    if getattr(theirs, name) != getattr(config, name)
  ]
  if differ:
    raise ValueError(
      f'the weights in {source.folder} are of another network:'
      f' {"; ".join(differ)}; set config.model to their values'
    )


def _transformer_fields(theirs, ours, grid):
  """Names of what two transformers must share; `grid`: tokens of a frame."""
  names = list(_FIELDS)
  if ours.positions == theirs.positions == 'sincos':
    names += _SINCOS_FIELDS
  if theirs.mixer != 'none':
    names += _TTT_FIELDS
  # A base of the frames' own size changes nothing.
  base = lambda config: None if config.base == grid else config.base
  if ours.positions == theirs.positions == 'rope' and (
    base(ours) != base(theirs)
  ):
    names += ['base_rows', 'base_columns']
  return names
