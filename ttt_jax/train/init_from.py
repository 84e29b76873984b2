"""Initial weights of a stage: those of another stage, or pre-trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp

from ttt_jax import backbones
from ttt_jax import config_schema
from ttt_jax import geometry as geometry_lib
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.convert import dit as convert_dit
from ttt_jax.convert import lazy_params
from ttt_jax.convert import model_folder
from ttt_jax.convert import native
from ttt_jax.convert import registry
from ttt_jax.convert import unet as convert_unet
from ttt_jax.models import dit
from ttt_jax.models.dit import mixers
from ttt_jax.models.unet3d import unet
from ttt_jax.runtime import files

# Fields of the network that change the outputs of the same weights.
_DIT_FIELDS = (
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
  'prediction',
)
# Those that are shapes of parameters.
_SIZES = _DIT_FIELDS[: _DIT_FIELDS.index('norm_eps')]
_SINCOS_FIELDS = ('spatial_scale', 'temporal_scale')
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
class InitFrom:
  """Weights in a folder, not loaded yet.

  Attributes:
    folder: Folder of the weights.
    load: Function that returns the nested float32 parameters; its argument
      maps a shape to a sharding.
    config: Config of their network.
    is_stage: Whether they are those of a stage; the next one may differ in
      everything but sizes, prediction and mixer.
    identity: Function that returns the fingerprints of their encoders, see
      `manifest.Manifest.identity`; None for pre-trained weights.
  """

  folder: epath.Path
  load: Callable[[Callable[..., Any]], Any]
  config: dit.DiTConfig | unet.UNet3DConfig
  is_stage: bool = False
  identity: Callable[[], Mapping[str, Any] | None] = lambda: None


def resolve_init_from(folder: epath.Path, stage: str) -> InitFrom:
  """Returns the weights in a folder without reading them.

  Args:
    folder: Folder of a transformer, a U-Net or a complete model that
      `save_pretrained` or `ttt_jax.convert` wrote; or of a stage; or of all
      stages, which stands for the stage that was saved last.
    stage: Name of the stage that starts from them, for messages.

  Raises:
    FileNotFoundError: the folder is none of these, or a file is missing.
    ValueError: the model is not supported, or damaged.
  """
  for path in (folder, folder / 'transformer', folder / 'unet'):
    if native.is_checkpoint(path):
      return _from_native(path)
    if (path / 'config.json').is_file():
      return _from_pretrained(path)
  try:
    folder = checkpoint_format.stage_folder(folder)
  except FileNotFoundError as e:
    what = model_folder.describe(folder)
    raise FileNotFoundError(
      f'stage {stage} starts from weights in {folder}, but there are none'
      f'{what and f" ({what})"};'
      ' train that stage first, name the folder of a transformer, or set'
      ' --config.previous_stage= to start from random weights'
    ) from e
  config = checkpoint.load_config(folder)
  config_schema.check(config, saved=True)
  return InitFrom(
    folder,
    lambda sharding: checkpoint.load_params(folder, sharding=sharding)[0],
    backbones.from_config(config).config,
    is_stage=True,
    identity=lambda: checkpoint.load_data(folder)['identity'],
  )


def _from_native(folder):
  saved = native.read(folder)
  if saved.model not in ('transformer', 'unet'):
    raise ValueError(
      f'{folder} contains a {saved.model}; training starts from a transformer'
      ' or a unet'
    )
  return InitFrom(
    folder,
    lambda sharding: saved.params(jnp.float32, sharding),
    registry.native_config(saved),
  )


def _from_pretrained(folder):
  # Checks files and shapes before a device is used.
  content = files.read_json(folder / 'config.json')
  if (
    isinstance(content, dict)
    and content.get('_class_name') == convert_unet.CLASS
  ):
    # Missing temporal attention is initialized with all new parameters.
    config, params = convert_unet.load_unet(
      folder,
      temporal=convert_unet.has_temporal(folder),
      sharding=lazy_params.ABSTRACT,
    )
  else:
    config, params = convert_dit.load_dit(folder, sharding=lazy_params.ABSTRACT)
  return InitFrom(
    folder,
    lambda sharding: jax.tree.map(
      lambda leaf: lazy_params.materialize(leaf, jnp.float32, sharding), params
    ),
    config,
  )


def check(
  init_from: InitFrom,
  config: dit.DiTConfig | unet.UNet3DConfig,
  geometry: geometry_lib.Geometry | geometry_lib.FrameGeometry,
) -> None:
  """Raises ValueError if a network differs from that of the weights.

  Args:
    init_from: Weights.
    config: Config of the network.
    geometry: Sizes of its clips.
  """
  theirs = init_from.config
  if type(theirs) is not type(config):
    raise ValueError(
      f'the weights in {init_from.folder} belong to a'
      f' {_NAMES[type(theirs)]}, but this config trains a'
      f' {_NAMES[type(config)]}; name the folder of one in --config.init_from'
    )
  names = list(_UNET_FIELDS)
  if init_from.is_stage and isinstance(theirs, dit.DiTConfig):
    names = [*_SIZES, 'prediction', *_mixer_fields(theirs)]
  elif isinstance(geometry, geometry_lib.Geometry):
    names = _transformer_fields(theirs, config, geometry.grid)
  # A skip connection without weights starts at 0.
  if getattr(theirs, 'input_skip', False):
    names.append('input_skip')
  differ = [
    f'{name} = {getattr(theirs, name)!r} there,'
    f' {getattr(config, name)!r} in config.model'
    for name in names
    if getattr(theirs, name) != getattr(config, name)
  ]
  if differ:
    raise ValueError(
      f'the weights in {init_from.folder} belong to another network:'
      f' {"; ".join(differ)}; set config.model to their values'
    )


def _mixer_fields(theirs):
  """Returns the fields that concern the mixer of the weights, if any."""
  mixer = mixers.MIXERS[theirs.mixer]
  return ('mixer', *mixer.fields) if mixer.scope else ()


def _transformer_fields(theirs, ours, grid):
  """Returns the fields that two transformers must share.

  Args:
    theirs: Config of the weights.
    ours: Config of the network.
    grid: Rows and columns of a frame's tokens.
  """
  names = list(_DIT_FIELDS)
  if ours.positions == theirs.positions == 'sincos':
    names += _SINCOS_FIELDS
  names += _mixer_fields(theirs)
  # A base that equals the grid has no effect.
  base = lambda config: None if config.base == grid else config.base
  if ours.positions == theirs.positions == 'rope' and (
    base(ours) != base(theirs)
  ):
    names += ['base_rows', 'base_columns']
  return names
