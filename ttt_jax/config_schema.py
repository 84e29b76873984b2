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
  """Sizes of the axes of the device mesh, see `sharding`.

  Attributes:
    data: Parts of the batch; the parameters are split over them, too.
    sp: Parts of each sequence; must divide the heads.
  """

  data: schema.PositiveInt = 1
  sp: schema.PositiveInt = 1


class VideoData(_Section, kw_only=True):
  """Clips of a transformer, by seconds.

  Attributes:
    folder: Folder of the data set; '{workdir}' in it and in the next two is
      replaced.
    storyboards: File of storyboards, annotations or captions, for precompute.
    videos: Folder of the videos, for precompute.
    seconds: Length of a clip, a multiple of a segment's.
    stride: Seconds between the beginnings of two clips; 0 is the length of a
      clip.
    start: Seconds into the video at which the clip of a tuning begins.
    fps: Frames per second, to which videos are resampled.
    height: Pixel rows.
    width: Pixel columns.
    spatial_compression: Pixels per latent cell and side.
    soften: Whether frames are blurred a little, as the small autoencoder was
      trained.
  """

  folder: schema.Text
  storyboards: str = ''
  videos: str = ''
  seconds: schema.PositiveFloat
  stride: schema.NonNegativeFloat = 0.0
  start: schema.NonNegativeFloat = 0.0
  fps: schema.PositiveInt
  height: schema.PositiveInt
  width: schema.PositiveInt
  spatial_compression: schema.PositiveInt = 8
  soften: bool = False


class FrameData(_Section, kw_only=True):
  """Clips of a U-Net, by frames.

  Attributes:
    folder: Folder of the data set; '{workdir}' in it is replaced.
    frames: Frames of the clip.
    stride: Every n-th frame of the file is taken.
    start: Number of the first frame.
    fps: Frames per second of the files that are written.
    height: Pixel rows.
    width: Pixel columns.
    spatial_compression: Pixels per latent cell and side.
    soften: Whether frames are blurred a little, as the small autoencoder was
      trained.
  """

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
  """The video or image autoencoder.

  Attributes:
    folder: Folder of the model, or 'package:NAME/REST'.
    tiling: Whether frames are encoded in tiles, which takes less memory.
    dtype: Compute type; '' keeps the encoder's default.
  """

  folder: schema.Text
  tiling: bool = False
  dtype: _Dtype = ''


class TextEncoder(_Section, kw_only=True):
  """The text encoder.

  Attributes:
    folder: Folder of the model, or 'package:NAME/REST'.
    length: Text tokens per segment, L; longer texts are an error.
    dtype: Compute type; '' keeps the encoder's default.
    cache: Folder of embeddings that stages and samples share; '' disables it.
    truncate: Whether longer texts are cut instead.
  """

  folder: str = ''
  length: schema.PositiveInt
  dtype: _Dtype = ''
  cache: str = ''
  truncate: bool = False


class Ddim(_Section):
  """Noise levels of DDIM for a U-Net, as its folder defines them.

  Attributes:
    offset: Offset of the timesteps, `steps_offset` in diffusers.
    ends_clean: Whether the last step ends at exactly no noise.
  """

  offset: Annotated[int, msgspec.Meta(ge=0, le=999)]
  ends_clean: bool


class Sample(_Section):
  """Options of the samples that a tuning makes.

  Attributes:
    steps: Sampling steps.
    guidance: Strength of the guidance.
    negative: Description of contents to avoid.
    seed: Seed of the noise.
    inversion: Whether sampling starts from the inverted clip, not from noise.
    batch: Texts that are sampled at once; none is all of them.
  """

  steps: Steps = 50
  guidance: schema.FiniteFloat = 12.5
  negative: str = ''
  seed: schema.Seed = 0
  inversion: bool = True
  batch: schema.PositiveInt | None = None


class ParameterGroup(_Section, kw_only=True):
  """The training of the parameters of a group, see `train.optimizer`.

  Attributes:
    name: Name in tables and metrics.
    optimizer: Muon is for matrices, AdamW for everything.
    lr: Peak learning rate.
    schedule: Course of the learning rate after the warm-up.
    warmup: Steps in which the learning rate rises from 0.
    end_lr: Learning rate at the last step, for 'linear' and 'cosine'.
    weight_decay: Weight decay; norms and biases have none.
  """

  name: schema.Text | None = None
  optimizer: Literal['adamw', 'muon'] = 'adamw'
  lr: schema.PositiveFloat
  schedule: Schedule = 'constant'
  warmup: schema.NonNegativeInt = 0
  end_lr: schema.NonNegativeFloat = 0.0
  weight_decay: schema.NonNegativeFloat = 0.0


class Optimizer(_Section, kw_only=True):
  """The optimizer.

  Attributes:
    groups: Pairs of a pattern of parameter paths and a group; the first match
      decides, and the group None freezes.
    betas: Decay rates of AdamW's averages.
    eps: Epsilon of AdamW.
    clip: Largest norm of the gradient; 0 does not clip.
  """

  groups: Annotated[
    list[tuple[str, dict[str, Any] | None]], msgspec.Meta(min_length=1)
  ]
  betas: tuple[schema.Share, schema.Share] = (0.9, 0.95)
  eps: schema.Epsilon = 1e-8
  clip: schema.NonNegativeFloat = 0.0


class Training(_Section, kw_only=True):
  """A training config; `data` and `model` depend on the backbone.

  Attributes:
    name: Name of the run in tables.
    backbone: Network: the video transformer or the U-Net.
    stage: Name of the stage, and of its folder in the workdir.
    previous_stage: Stage of the same workdir whose weights training starts
      from.
    init_from: Folder whose weights training starts from: a run, a model in
      diffusers' layout, or a converted one.
    seed: Seed of everything random.
    steps: Steps of the optimizer.
    batch_size: Clips per step, over all devices.
    microbatches: Parts into which a step splits its batch, to save memory.
    ema_decay: Decay per step of the averaged weights; 0 keeps no average.
    text_dropout: Share of clips whose text is replaced by the empty text.
    schedule_shift: Shift of the noise schedule towards noise.
    x0_weight_limit: Largest weight of the squared error of the clean latents,
      see `objective.diffusion_loss`; 0 does not limit it.
    scheduler: Scheduler of samples; none is the default one.
    log_every: Steps between two rows of metrics.
    diagnose_every: Steps between two diagnoses of the mixers; 0 disables them.
    checkpoint_every: Steps between two checkpoints.
    keep_last: Newest checkpoints to keep.
    keep_every: Checkpoints at multiples of this step are kept, too; 0: none.
    sample_every: Steps between two samples; 0 disables them.
    profile: Steps to trace, as FIRST:LAST.
    mesh: Sizes of the device mesh.
    data: Clips, see `VideoData` and `FrameData`.
    vae: Autoencoder.
    text: Text encoder.
    model: Sizes of the network, see `DiTConfig` and `UNet3DConfig`.
    optimizer: Optimizer.
    video: Video file of a tuning.
    prompt: Text that describes the video of a tuning.
    edits: Texts that a tuning samples.
    inversion_prompt: Text of the inversion; '' inverts without a text.
    sample: Options of a tuning's samples.
    ddim: Noise levels of DDIM.
    extra: Names of further values, for a program that trains with the config.
  """

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
  x0_weight_limit: schema.NonNegativeFloat = 0.0
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
  video: str = ''
  prompt: str = ''
  edits: list[schema.Text] = []
  inversion_prompt: str = ''
  sample: Sample | None = None
  ddim: Ddim | None = None
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
