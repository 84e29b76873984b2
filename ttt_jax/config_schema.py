"""Types and ranges of the values of a training config, stated once.

The network's own values are those of `DiTConfig` and `UNet3DConfig`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import ml_collections
import msgspec

from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import schema

Backbone = Literal['dit', 'unet3d']
Steps = Annotated[int, msgspec.Meta(ge=1, le=1000)]  # of a sampler
Schedule = Literal['constant', 'linear', 'cosine']
_Dtype = Literal['', 'float32', 'bfloat16']


class _Section(msgspec.Struct, forbid_unknown_fields=True):
  """Values of a part of a config."""


class Mesh(_Section):
  data: schema.PositiveInt = 1
  sp: schema.PositiveInt = 1


class VideoData(_Section, kw_only=True):
  """Clips of a transformer, by seconds."""

  folder: schema.Text
  storyboards: str = ''
  videos: str = ''
  seconds: schema.PositiveFloat
  stride: schema.NonNegativeFloat = 0.0
  start: schema.NonNegativeFloat = 0.0
  fps: schema.PositiveInt
  height: schema.PositiveInt
  width: schema.PositiveInt
  soften: bool = False


class FrameData(_Section, kw_only=True):
  """Clips of a U-Net, by frames."""

  folder: schema.Text
  frames: schema.PositiveInt
  stride: schema.PositiveInt = 1
  start: schema.NonNegativeInt = 0
  fps: schema.PositiveInt
  height: schema.PositiveInt
  width: schema.PositiveInt
  spatial_compression: schema.PositiveInt = 8
  soften: bool = False


class Vae(_Section, kw_only=True):
  folder: schema.Text
  tiling: bool = False
  dtype: _Dtype = ''


class TextEncoder(_Section, kw_only=True):
  folder: str = ''
  length: schema.PositiveInt
  dtype: _Dtype = ''
  cache: str = ''
  truncate: bool = False


class Ddim(_Section):
  offset: Annotated[int, msgspec.Meta(ge=0, le=999)]
  ends_clean: bool


class Sample(_Section):
  steps: Steps = 50
  guidance: schema.FiniteFloat = 12.5
  negative: str = ''
  seed: schema.Seed = 0
  inversion: bool = True
  batch: schema.PositiveInt | None = None


class ParameterGroup(_Section, kw_only=True):
  """How the parameters of a group train, see `train.optimizer`."""

  name: schema.Text | None = None
  optimizer: Literal['adamw', 'muon'] = 'adamw'
  lr: schema.PositiveFloat
  schedule: Schedule = 'constant'
  warmup: schema.NonNegativeInt = 0
  end_lr: schema.NonNegativeFloat = 0.0
  weight_decay: schema.NonNegativeFloat = 0.0


class Optimizer(_Section, kw_only=True):
  groups: Annotated[
    list[tuple[str, dict[str, Any] | None]], msgspec.Meta(min_length=1)
  ]
  betas: tuple[schema.Share, schema.Share] = (0.9, 0.95)
  eps: schema.Epsilon = 1e-8
  clip: schema.NonNegativeFloat = 0.0


class Training(_Section, kw_only=True):
  """A training config; `data` and `model` depend on the backbone."""

  name: str = ''
  backbone: Backbone = 'dit'
  stage: str
  previous_stage: str = ''
  init_from: str = ''
  seed: schema.Seed
  steps: schema.PositiveInt
  batch_size: schema.PositiveInt
  microbatches: schema.PositiveInt
  ema_decay: schema.Share
  text_dropout: schema.Share
  schedule_shift: schema.PositiveFloat = 1.0
  scheduler: schema.Text | None = None
  log_every: schema.PositiveInt
  diagnose_every: schema.NonNegativeInt
  checkpoint_every: schema.PositiveInt
  keep_last: schema.PositiveInt
  keep_every: schema.NonNegativeInt
  sample_every: schema.NonNegativeInt
  profile: str = ''
  mesh: Mesh
  data: dict[str, Any]
  vae: Vae | None = None
  text: TextEncoder
  model: dict[str, Any]
  optimizer: Optimizer
  # Of a run that tunes a network on one video.
  video: str = ''
  prompt: str = ''
  edits: list[schema.Text] = []
  inversion_prompt: str = ''
  sample: Sample | None = None
  ddim: Ddim | None = None
  # Names of further values, for a program that trains with the config.
  extra: list[str] = []


def check(config: ml_collections.ConfigDict, *, saved: bool = False) -> None:
  """Raises ValueError for a value of another type or range.

  Args:
    config: Training config; `backbones.from_config` checks its `model`.
    saved: Whether the config is of a checkpoint, which another version may
      have written: names may be unknown, and only the network, the data and
      the encoders are required.
  """
  try:
    values = files.to_json_types(dict(config))
  except (TypeError, RecursionError) as e:
    raise ValueError(f'config has a value that is not JSON: {e}') from e
  extra = schema.convert(values.get('extra', []), list[str], 'config.extra')
  values = {k: v for k, v in values.items() if k not in extra}
  kinds: dict[str, Any] = schema.field_kinds(Training)
  if saved:
    values = _known(values, Training)
    for name in ('stage', 'schedule_shift', 'data', 'text', 'model'):
      if name not in values:
        raise ValueError(f'config has no "{name}"')
    for name, value in values.items():
      schema.convert(value, kinds[name], f'config.{name}')
  else:
    schema.convert(values, Training, 'config')
  is_dit = values.get('backbone', 'dit') == 'dit'
  kind = VideoData if is_dit else FrameData
  data = _known(values['data'], kind) if saved else values['data']
  schema.convert(data, kind, 'config.data')
  paths.check_name(values['stage'], 'config.stage')
  if values.get('previous_stage'):
    paths.check_name(values['previous_stage'], 'config.previous_stage')


def _known(values: Any, kind: Any) -> Any:
  """Returns a JSON object without the keys that its kind does not have."""
  struct = schema.struct_of(kind)
  if struct is None or not isinstance(values, dict):
    return values
  kinds = schema.field_kinds(struct)
  return {k: _known(v, kinds[k]) for k, v in values.items() if k in kinds}
