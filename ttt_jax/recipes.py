"""Parts that the recipes in `configs/` share.

A config file is loaded by its path, from any working directory, so it imports
this library and never another config file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import os
import pathlib
from typing import Any

import ml_collections

from ttt_jax.checkpoints import checkpoint
from ttt_jax.convert import clip
from ttt_jax.convert import dit
from ttt_jax.convert import kl_vae
from ttt_jax.convert import model_folder
from ttt_jax.convert import model_format
from ttt_jax.convert import stable_diffusion
from ttt_jax.convert import unet
from ttt_jax.models.dit import DiTConfig
from ttt_jax.models.dit import mixers
from ttt_jax.runtime import files

# The curriculum of the paper. Stage: seconds of video, steps, warm-up steps,
# and the stage whose weights it starts from.
STAGES = {
  '3s': (3, 5000, 100, ''),
  '9s': (9, 5000, 100, '3s'),
  '18s': (18, 1000, 50, '9s'),
  '30s': (30, 1000, 50, '18s'),
  '63s': (63, 250, 25, '30s'),
}
# Parameters of the mixer and its gates, and the mixer's large projections (see
# `ttt_jax.models.dit.mixer`).
MIXER = r'layers/seq/(?!attn/).*'
_MIXER_MATRICES = r'layers/seq/(?!attn/)\w+/[a-z]/kernel'

_CELL = 8  # pixels per latent cell and side of CogVideoX's autoencoder
# Fields of the U-Net that the run decides, not the folder of weights.
_RUN_FIELDS = (
  'temporal',
  'reference_bias',
  'dtype',
  'remat',
  'attention_frames',
)


def training(**fields: Any) -> ml_collections.ConfigDict:
  """Returns a config with the fields that every training has.

  Args:
    **fields: Values in place of the defaults below, or in addition to them;
      at least `name`, `stage`, `steps` and `batch_size`.
  """
  defaults = dict(
    # Stage of the same workdir, or folder, whose weights training starts from.
    previous_stage='',
    init_from='',
    seed=0,
    microbatches=1,
    ema_decay=0.0,
    text_dropout=0.1,
    schedule_shift=1.0,
    x0_weight_limit=0.0,
    log_every=10,
    diagnose_every=0,
    checkpoint_every=250,
    keep_last=1,
    keep_every=0,
    sample_every=0,
    mesh=dict(data=1, sp=1),
  )
  return ml_collections.ConfigDict(defaults | fields)


def tuning(**fields: Any) -> dict[str, Any]:
  """Returns the fields of a run that tunes a network on one video.

  Args:
    **fields: Values in place of these, or in addition to them.
  """
  return (
    dict(
      stage='tune',
      previous_stage='',
      seed=0,
      steps=500,
      batch_size=1,
      microbatches=1,
      video='',
      prompt='',
      # Texts that are sampled during training, every `sample_every` steps.
      edits=(),
      inversion_prompt='',
      ema_decay=0.0,
      text_dropout=0.0,
      log_every=10,
      checkpoint_every=100,
      keep_last=1,
      keep_every=0,
      sample_every=50,
      mesh=dict(data=1, sp=1),
    )
    | fields
  )


def check_choice(kind: str, value: str, known: Iterable[str]) -> None:
  """Raises ValueError unless `value` is one of the `known` names of a kind."""
  if value not in known:
    raise ValueError(f'{kind} {value!r}; expected one of {", ".join(known)}')


def parse_stage(argument: str, stages: Iterable[str]) -> tuple[str, str]:
  """Parses '<stage>' or '<stage>,<mixer>'; the default mixer is TTT-MLP.

  Args:
    argument: Text after the colon of `--config`.
    stages: Names of the stages.

  Raises:
    ValueError: an unknown stage or mixer.
  """
  stage, comma, mixer = argument.partition(',')
  if not comma:
    mixer = DiTConfig.mixer
  check_choice('stage', stage, stages)
  check_choice('mixer', mixer, mixers.MIXERS)
  return stage, mixer


def mixer_fields(mixer: str, **fields: Any) -> dict[str, Any]:
  """Returns the fields of `config.model` that concern a mixer.

  Args:
    mixer: Name of the mixer.
    **fields: Values in place of the defaults.
  """
  names = dict.fromkeys(
    ('mini_batch', 'ttt_base_lr', *mixers.MIXERS[mixer].fields)
  )
  defaults = {name: getattr(DiTConfig, name) for name in names}
  defaults |= mixers.MIXERS[mixer].defaults
  return dict(mixer=mixer) | defaults | fields


def muon_groups(lr: float, *, train_all: bool) -> list[tuple[str, Any]]:
  """Parameter groups that train a small transformer within minutes.

  Muon trains the matrices and AdamW, with a tenth of the learning rate, the
  vectors.

  Args:
    lr: Peak learning rate of Muon.
    train_all: Train every parameter; otherwise those of the paper's later
      stages, the mixer, its gates and attention.
  """

  def group(name, optimizer, lr):
    return dict(
      name=name, optimizer=optimizer, lr=lr, schedule='cosine', warmup=20
    )

  muon = lambda name: group(name, 'muon', lr)
  adam = lambda name: group(name, 'adamw', lr / 10)
  groups = [
    (_MIXER_MATRICES, muon('ttt')),
    (MIXER, adam('ttt_vectors')),
    (r'layers/seq/attn/[qkvo]/kernel', muon('attention')),
    (r'layers/seq/attn/.*', adam('attention_vectors')),
  ]
  if not train_all:
    return [*groups, (r'.*', None)]
  return [
    *groups,
    (r'layers/(mlp|seq_modulation|mlp_modulation)/.*', muon('rest')),
    (r'.*', adam('rest_vectors')),
  ]


def ttt_video(argument: str = '3s') -> ml_collections.ConfigDict:
  """Returns one stage of the paper's curriculum for CogVideoX-5B.

  Args:
    argument: '<stage>' or '<stage>,<mixer>'.

  Raises:
    ValueError: an unknown stage or mixer.
  """
  stage, mixer = parse_stage(argument or '3s', STAGES)
  seconds, steps, warmup, previous_stage = STAGES[stage]
  config = training(
    name=f'{mixer}_5b',
    stage=stage,
    previous_stage=previous_stage,
    steps=steps,
    batch_size=64,
    scheduler='cogvideox_dpm',  # of the samples
    diagnose_every=100,
    keep_last=2,
    keep_every=1000,
  )
  config.data = dict(
    storyboards='captions.jsonl',
    videos='videos',
    folder='{workdir}/data/' + stage,
    seconds=seconds,
    # Seconds between the beginnings of two clips; 0 is the length of a clip.
    stride=0.0,
    fps=16,
    height=480,
    width=720,
    soften=False,
  )
  # Encoding in tiles takes less memory and changes the latents a little.
  config.vae = dict(folder='cogvideox-5b/vae', tiling=False)
  # Any length works, because the last mini-batch is padded. The paper's own
  # lengths (458 to 502) are those that divide by 64.
  config.text = dict(
    folder='cogvideox-5b/text_encoder',
    length=480,
    dtype='bfloat16',
    # Folder of embeddings that all stages and samples share; '' disables it.
    cache='',
    truncate=False,
  )
  config.model = dict(
    **mixer_fields(mixer),
    dtype='bfloat16',
    # 'offload' halves the memory at 63 s: the host stores the residuals.
    remat='layer',
    # Of the mixer and of attention; None is the best of the backend.
    implementation=ml_collections.config_dict.placeholder(str),
    attention=ml_collections.config_dict.placeholder(str),
  )
  is_first = stage == '3s'
  mixer_group = dict(
    name='ttt',  # In checkpoints of every mixer.
    optimizer='adamw',
    lr=1e-4 if is_first else 1e-5,
    schedule='cosine' if is_first else 'constant',
    warmup=warmup,
    end_lr=1e-5,
    weight_decay=1e-4,
  )
  pretrained = dict(
    name='pretrained',
    optimizer='adamw',
    lr=1e-5,
    schedule='linear',
    warmup=warmup,
    end_lr=1e-5,
    weight_decay=1e-4,
  )
  config.optimizer = dict(
    groups=[
      (MIXER, mixer_group),
      # From 9 s on, attention and its norms alone train with the mixer.
      (r'.*' if is_first else r'layers/seq/attn/.*', pretrained),
      (r'.*', None),
    ],
    betas=(0.9, 0.95),
    clip=0.1,
  )
  return config


def cogvideox(folder: str, argument: str = '3s') -> ml_collections.ConfigDict:
  """Returns one stage of the curriculum with the sizes of a CogVideoX.

  Args:
    folder: Folder in diffusers' layout, with transformer/, vae/, text_encoder/,
      tokenizer/ and scheduler/.
    argument: '<stage>' or '<stage>,<mixer>'.

  Raises:
    ValueError: an unknown stage or mixer, or a folder that is not a complete
      CogVideoX.
  """
  config = ttt_video(argument)
  path = f'{folder}/transformer/config.json'
  try:
    model_folder.check_pipeline(pathlib.Path(folder), dit.SUPPORTED)
    content = files.read_json(path)
    schedule = stable_diffusion.load_scheduler(f'{folder}/scheduler')
  except FileNotFoundError as e:
    # A ValueError passes through the flag library as one line at once.
    raise ValueError(
      f'{e}; {folder} must be the folder of a complete CogVideoX'
      + model_folder.explain(folder, 'transformer')
    ) from e
  config.scheduler, config.schedule_shift = schedule.scheduler, schedule.shift
  sizes = dataclasses.asdict(dit.config_from_json(content, path))
  if schedule.prediction == 'sample':
    sizes['prediction'] = 'sample'
  # The stage decides what the folder does not define.
  for name in (*config.model, 'gate_init'):
    sizes.pop(name, None)
  config.model.update(sizes)
  config.name = f'{config.model.mixer}_{folder.rstrip("/").split("/")[-1]}'
  if not config.previous_stage:
    config.init_from = folder
  config.vae.folder = f'{folder}/vae'
  config.text.folder = f'{folder}/text_encoder'
  config.data.height = sizes['base_rows'] * sizes['patch_size'] * _CELL
  config.data.width = sizes['base_columns'] * sizes['patch_size'] * _CELL
  return config


def dit_base(folder: str) -> ml_collections.ConfigDict:
  """Returns the config that describes the transformer in a folder.

  Args:
    folder: Folder of a complete CogVideoX or of a training run; '' stands for
      CogVideoX-5B.

  Raises:
    ValueError: a folder that is neither.
  """
  if not folder:
    return ttt_video('3s')
  if (pathlib.Path(folder) / 'transformer' / 'config.json').is_file():
    return cogvideox(folder)
  try:
    return checkpoint.load_config(folder)
  except FileNotFoundError as e:
    raise ValueError(
      f'{folder} is neither the folder of a CogVideoX nor that of a training'
      f' run{model_folder.explain(folder, "transformer")}'
    ) from e


def stable_diffusion_sizes(folder: str | os.PathLike[str]) -> Mapping[str, Any]:
  """Reads the sizes and noise levels of a Stable Diffusion.

  Args:
    folder: Folder in diffusers' layout, or 'package:NAME/REST'.

  Returns:
    Fields of a config, by section.

  Raises:
    ValueError: a folder that is not a complete, supported Stable Diffusion.
  """
  try:
    root = model_folder.resolve(folder)
    schedule = stable_diffusion.load_schedule(root)
    part = lambda name: (
      model_folder.find_part(root, name, stable_diffusion.SUPPORTED)
      / model_folder.CONFIG
    )
    unet_path, vae_path, text_path = map(part, ('unet', 'vae', 'text_encoder'))
    unet_config = unet.config_from_json(
      model_format.read_object(unet_path),
      str(unet_path),
      prediction=schedule.prediction,
      temporal=True,
      reference_bias=False,
    )
    vae_config = kl_vae.config_from_json(
      model_format.read_object(vae_path), str(vae_path)
    )
  except FileNotFoundError as e:
    raise ValueError(
      f'{e}; expected the folder of a Stable Diffusion in the layout of'
      ' diffusers'
    ) from e
  text_config = clip.config_from_json(
    model_format.read_object(text_path), str(text_path)
  )
  for name, expected, found in (
    ('cross_attention_dim', text_config.width, unet_config.text_dim),
    ('in_channels', vae_config.latent_channels, unet_config.in_channels),
  ):
    if found != expected:
      raise ValueError(
        f'{unet_path} has {name} {found}, but the vae and text_encoder next to'
        f' it need {expected}: they belong to different models'
      )
  model = dataclasses.asdict(unet_config)
  return dict(
    name=f'tune_a_video_{pathlib.Path(root).name}',
    model={k: v for k, v in model.items() if k not in _RUN_FIELDS},
    ddim=dict(offset=schedule.offset, ends_clean=schedule.ends_clean),
    text=dict(length=text_config.max_length),
    data=dict(spatial_compression=vae_config.spatial_compression),
  )
