"""Samples the video of a storyboard with a trained model.

    ttt-jax sample --workdir=DIR --storyboard=story.json --out=story.mp4
    ttt-jax sample --workdir=DIR --storyboard=stories.json#NAME --seed=1 \\
        --steps=25 --out=story.mp4

DIR is the folder of a training run or of a pre-trained CogVideoX. Writes an
H.264 MP4 and, next to it, a contact sheet with one frame per segment.
`--precompile` only compiles the programs, into the cache of compiled programs,
which a run has in DIR/compilation_cache.
"""

from __future__ import annotations

import pathlib
import time
from typing import Any

from absl import flags
from etils import epath
import jax

from ttt_jax import config_schema
from ttt_jax.diffusion import guidance
from ttt_jax.diffusion import schedulers
from ttt_jax.runtime import bucket
from ttt_jax.runtime import cli
from ttt_jax.runtime import compilation
from ttt_jax.runtime import files
from ttt_jax.runtime import schema

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  "Folder of the training run, or of a CogVideoX in diffusers' layout.",
  required=True,
)
_STORYBOARD = flags.DEFINE_string(
  'storyboard', None, 'JSON file of the storyboard.', required=True
)
_OUT = flags.DEFINE_string('out', None, 'MP4 file to write.')
_PRECOMPILE = flags.DEFINE_bool(
  'precompile', False, 'Compiles the programs of the video, without sampling.'
)
_STEPS = cli.define(
  'steps', 50, 'Sampling steps, 1 to 1000.', config_schema.Steps
)
flags.register_multi_flags_validator(
  ['out', 'precompile'],
  lambda values: values['out'] is not None or values['precompile'],
  message=f'--out {cli.REQUIRED}',
)
_GUIDANCE = cli.define(
  'guidance', 6.0, 'Strength of the guidance.', schema.FiniteFloat
)
_GUIDANCE_SCHEDULE = flags.DEFINE_enum(
  'guidance_schedule',
  'cosine',
  list(guidance.SCHEDULES),
  'Schedule of the guidance.',
)
_SCHEDULER = flags.DEFINE_enum(
  'scheduler',
  None,
  list(schedulers.SCHEDULERS),
  'Scheduler; default: from the config.',
)
_REUSE = cli.define(
  'reuse',
  1,
  'Number of steps that share what the late blocks add; 1 is exact.',
  schema.PositiveInt,
)
_SEED = cli.define('seed', 0, 'Seed of the initial noise.', schema.Seed)
_MESH = flags.DEFINE_string(
  'mesh',
  None,
  'Devices per axis of the mesh, for example data:2,sp:4; default: one device.',
)
_EMA = flags.DEFINE_bool(
  'ema', True, 'Averaged weights of a training run instead of the last ones.'
)


def main(_) -> None:
  # Checks file names before the slow imports and the loading of a model.
  from ttt_jax import storyboard as storyboard_lib
  from ttt_jax.runtime import distributed
  from ttt_jax.video import contact_sheet

  out = None if _PRECOMPILE.value else _check_out()
  storyboard = storyboard_lib.Storyboard.load(_STORYBOARD.value)
  bucket.check(_WORKDIR.value)

  from ttt_jax import pipeline
  from ttt_jax import sharding
  from ttt_jax.pipeline import pretrained

  distributed.initialize()
  compilation.enable_compilation_cache(
    pretrained.run_folder(_WORKDIR.value), optional=True
  )
  mesh = None
  if _MESH.value:
    mesh = sharding.make_mesh(sharding.parse_mesh(_MESH.value))
  pipe = pipeline.VideoPipeline.load(_WORKDIR.value, _EMA.value, mesh)
  for name, value in pipe.geometry(storyboard).table():
    print(f'  {name:<22} {value}')
  start = time.perf_counter()
  options = dict(
    steps=_STEPS.value,
    guidance=_GUIDANCE.value,
    scheduler=_SCHEDULER.value,
    guidance_schedule=_GUIDANCE_SCHEDULE.value,
    reuse=_REUSE.value,
  )
  if out is None:
    pipe.precompile(storyboard, **options)
    seconds = time.perf_counter() - start
    print(f'compiled the programs of the video in {seconds:.1f} s')
    return
  settings = _settings(pipe, storyboard)  # Read before the long work.
  video = pipe(storyboard, seed=_SEED.value, **options)
  print(f'sampled and decoded in {time.perf_counter() - start:.1f} s')
  if jax.process_index():
    return  # Every process has the frames; only the first one writes them.
  picture = out.with_suffix('.png')
  video.save(out, settings)
  contact_sheet.write_contact_sheet(
    contact_sheet.segment_frames(video, len(storyboard.segments)), picture
  )
  print(f'wrote {out} ({len(video)} frames, {video.seconds:.1f} s)')
  print(f'wrote {picture} (one frame per segment)')


def _check_out() -> pathlib.Path:
  """Returns the file to write; raises ValueError if it cannot be written."""
  out = pathlib.Path(_OUT.value or '')
  if out.suffix != '.mp4':
    raise ValueError(f'--out is {out}; it must end in .mp4')
  for path in (out, out.with_suffix('.png')):
    files.check_writable(path)
  return out


def _settings(pipe, storyboard) -> dict[str, Any]:
  """Returns what the file says about its making."""
  import ttt_jax
  from ttt_jax.checkpoints import checkpoint
  from ttt_jax.pipeline import pretrained

  folder = _WORKDIR.value
  if pretrained.is_pretrained(folder):
    made_by = dict(checkpoint=epath.Path(folder).resolve().name)
  else:
    made_by = checkpoint.describe(folder)
  return dict(
    made_by,
    mixer=pipe.config.mixer,
    averaged_weights=_EMA.value,
    steps=_STEPS.value,
    guidance=_GUIDANCE.value,
    guidance_schedule=_GUIDANCE_SCHEDULE.value,
    scheduler=_SCHEDULER.value or pipe.scheduler,
    reuse=_REUSE.value,
    seed=_SEED.value,
    version=f'ttt_jax {ttt_jax.__version__}',
    story=storyboard.name,
    texts=storyboard.prompts(),
  )


if __name__ == '__main__':
  cli.run(main)
