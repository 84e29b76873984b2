"""Networks that the trainer can train, by the name `config.backbone`.

dit      CogVideoX's transformer with TTT layers (the default)
unet3d   Stable Diffusion's U-Net, inflated to video
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import ml_collections
import numpy as np

from ttt_jax import config_schema
from ttt_jax import geometry as geometry_lib
from ttt_jax import sharding
from ttt_jax.diffusion import sampling_schedule
from ttt_jax.diffusion import schedule as schedule_lib
from ttt_jax.diffusion import schedulers
from ttt_jax.models import dit
from ttt_jax.models import layers
from ttt_jax.models.dit import mixers
from ttt_jax.models.unet3d import unet
from ttt_jax.runtime import schema

DEFAULT = 'dit'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
  """A network with everything that training and editing need of it.

  Attributes:
    config: Sizes of the network.
    network: Class of the network, called with (config, sharding_plan). A module
      maps latents [B, F, h, w, c], text [B, S, L, Dt] and timesteps [B] to its
      prediction.
    init_fn: Maps (config, key) to fresh parameters, a nested dict.
    schedule: Noise schedule of training, sqrt(alpha_bar) [1000].
    prediction: Output of the network, one of `schedule.PREDICTIONS`.
    num_heads: Heads that the mesh axis `sp` must divide; None if `sp` splits
      something else.
  """

  config: dit.DiTConfig | unet.UNet3DConfig
  network: type[nn.Module]
  init_fn: Callable[[Any, jax.Array], Any]
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

  def module(
    self, sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()
  ) -> nn.Module:
    """Returns the network on a mesh."""
    return self.network(self.config, sharding_plan)

  def init(self, key: jax.Array) -> Any:
    """Returns fresh parameters, a nested dict."""
    return self.init_fn(self.config, key)

  def abstract_params(self) -> Any:
    """Returns the parameters' shapes as `jax.ShapeDtypeStruct`."""
    return layers.abstract_params(self.init_fn, self.config)


def from_config(config: ml_collections.ConfigDict) -> Backbone:
  """Returns the backbone of a training config.

  Raises:
    ValueError: the name is unknown, or sizes do not fit each other.
  """
  if _name(config) == 'dit':
    dit_config = schema.construct(dit.DiTConfig, config.model, 'config.model')
    return Backbone(
      config=dit_config,
      network=dit.DiffusionTransformer,
      init_fn=dit.init_params,
      schedule=schedule_lib.zero_snr_schedule(shift=config.schedule_shift),
      prediction=dit_config.prediction,
      num_heads=dit_config.split_heads,
    )
  unet_config = schema.construct(
    unet.UNet3DConfig, config.model, 'config.model'
  )
  return Backbone(
    config=unet_config,
    network=unet.UNet3D,
    init_fn=unet.init_params,
    schedule=schedule_lib.scaled_linear_alphas(),
    prediction=unet_config.prediction,
    num_heads=None,
  )


def geometry(
  config: ml_collections.ConfigDict,
) -> geometry_lib.Geometry | geometry_lib.FrameGeometry:
  """Returns the sizes of the clips that a config trains on."""
  if _name(config) == 'dit':
    return geometry_lib.Geometry.from_config(config)
  return geometry_lib.FrameGeometry.from_config(config)


def check_mini_batch(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if an inner step would take more tokens than a clip has.

  A sampler may have shorter clips, which it pads.
  """
  model, clips = from_config(config).config, geometry(config)
  if not isinstance(model, dit.DiTConfig) or not isinstance(
    clips, geometry_lib.Geometry
  ):
    return
  takes = 'mini_batch' in mixers.MIXERS[model.mixer].fields
  if takes and model.mini_batch > clips.sequence_length:
    raise ValueError(
      f'config.model.mini_batch is {model.mini_batch}, and a clip has'
      f' {clips.sequence_length} tokens; use at most that, for example'
      f' {min(dit.DiTConfig.mini_batch, clips.sequence_length)}'
    )


def size_table(config: ml_collections.ConfigDict) -> list[tuple[str, str]]:
  """Returns rows (quantity, value) about clips and mixer, to print."""
  clips = geometry(config)
  rows = clips.table()
  model = from_config(config).config
  if isinstance(model, dit.DiTConfig) and isinstance(
    clips, geometry_lib.Geometry
  ):
    rows += mixers.table(model, dit.abstract_params(model), clips.order)
  return rows


def ddim_schedule(
  config: ml_collections.ConfigDict, steps: int
) -> sampling_schedule.SamplingSchedule:
  """Returns the noise levels along which DDIM samples and inverts.

  Args:
    config: Training config; for a U-Net `config.ddim` contains `offset` and
      `ends_clean` of `sampling_schedule.leading`.
    steps: Number of steps, n.
  """
  if _name(config) == 'dit':
    sampler = schedulers.scheduler('cogvideox_ddim')
    return sampler.schedule(steps, config.schedule_shift)
  return sampling_schedule.leading(steps, **config.ddim)


def _name(config: ml_collections.ConfigDict) -> str:
  name = config.get('backbone', DEFAULT)
  return schema.convert(name, config_schema.Backbone, 'config.backbone')
