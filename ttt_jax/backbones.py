"""The networks that the one trainer trains: `config.backbone` names one.

dit      CogVideoX's transformer with TTT layers (the default)
unet3d   Stable Diffusion's U-Net, inflated to video
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import types
from typing import Any

from flax import linen as nn
import jax
import ml_collections
import numpy as np

from ttt_jax import geometry as geometry_lib
from ttt_jax import sharding
from ttt_jax.diffusion import grid as grid_lib
from ttt_jax.diffusion import schedule as schedule_lib
from ttt_jax.diffusion import schedulers
from ttt_jax.models import dit
from ttt_jax.models.unet3d import unet

DEFAULT = 'dit'


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A network, and what training and editing must know of it.

  Attributes:
    config: sizes of the network.
    network: its class, of (config, layout); a module is called with latents
      [B, F, h, w, c], text [B, S, L, Dt] and timesteps [B].
    library: has its `init_params` and `abstract_params`.
    schedule: sqrt(alpha_bar) [1000] of training.
    prediction: of the network, 'v_prediction' or 'epsilon'.
    num_heads: that the mesh axis `sp` must divide; None where it splits
      something else.
  """

  config: dit.DiTConfig | unet.UNet3DConfig
  network: type[nn.Module]
  library: types.ModuleType
  schedule: np.ndarray
  prediction: str
  num_heads: int | None

  @property
  def in_channels(self) -> int:
    """Channels of the latents, c."""
    return self.config.in_channels

  @property
  def text_dim(self) -> int:
    """Width of the text states, Dt."""
    return self.config.text_dim

  def module(self, layout: sharding.Layout = sharding.Layout()) -> nn.Module:
    """The network on a mesh."""
    return self.network(self.config, layout)

  def init(self, key: jax.Array) -> Any:
    """Fresh parameters, nested dict."""
    return self.library.init_params(self.config, key)

  def abstract_params(self) -> Any:
    """Their shapes as `jax.ShapeDtypeStruct`; nothing is computed."""
    return self.library.abstract_params(self.config)


def of(config: ml_collections.ConfigDict) -> Backbone:
  """The backbone of a training config.

  Raises:
    ValueError: an unknown name, or sizes that do not fit each other.
  """
  name = _name(config)
  if name == 'dit':
    model = dit.DiTConfig(**config.model)
    return Backbone(
      model,
      dit.DiffusionTransformer,
      dit,
      schedule_lib.zero_snr_schedule(shift=config.schedule_shift),
      'v_prediction',
      model.num_heads,
    )
  model = unet.UNet3DConfig(**_tuples(config.model))
  return Backbone(
    model,
    unet.UNet3D,
    unet,
    schedule_lib.raw_schedule().astype(np.float32),
    model.prediction,
    None,
  )


def geometry(
  config: ml_collections.ConfigDict,
) -> geometry_lib.Geometry | geometry_lib.FrameGeometry:
  """The sizes of the clips that a config trains on."""
  if _name(config) == 'dit':
    return geometry_lib.Geometry.from_config(config)
  return geometry_lib.FrameGeometry.from_config(config)


def ddim_grid(
  config: ml_collections.ConfigDict, steps: int
) -> grid_lib.SamplingGrid:
  """The levels along which DDIM samples and inverts, as pre-training's.

  Args:
    config: of training; with a U-Net `config.ddim` says `offset` and
      `ends_clean` of `grid_lib.leading_grid`.
    steps: n.
  """
  if _name(config) == 'dit':
    ddim = schedulers.scheduler('cogvideox_ddim')
    return ddim.grid(steps, config.schedule_shift)
  return grid_lib.leading_grid(steps, **config.ddim)


def _name(config: ml_collections.ConfigDict) -> str:
  name = config.get('backbone', DEFAULT)
  if name not in ('dit', 'unet3d'):
    raise ValueError(f'config.backbone is {name!r}; legal are dit, unet3d')
  return name


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of a dataclass; JSON has lists where it has tuples."""
  return {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in fields.items()
  }
