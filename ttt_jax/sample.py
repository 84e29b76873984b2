"""Samples the video of a storyboard or of a text with a trained model.

    ttt-jax sample --workdir=DIR --storyboard=story.json --out=story.mp4
    ttt-jax sample --workdir=DIR --prompt="Pip runs to the barn." --out=pip.mp4
    ttt-jax sample --workdir=DIR --storyboard=stories.json#NAME --seed=1 \\
        --steps=25 --out=story.mp4

DIR is the folder of a training run or of a pre-trained CogVideoX. Writes an
H.264 MP4 and, next to it, a contact sheet with one frame per segment.
--negative is for the segments that have no negative text of their own.
`--precompile` only compiles the programs, into the cache of compiled programs,
which a run has in DIR/compilation_cache.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import pathlib
import time
from typing import Any

from absl import flags
from etils import epath
import jax
import msgspec

from ttt_jax import common_flags
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.runtime import bucket
from ttt_jax.runtime import cli
from ttt_jax.runtime import compilation
from ttt_jax.runtime import files

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  "Folder of the training run, or of a CogVideoX in diffusers' layout.",
  required=True,
)
_STORYBOARD = flags.DEFINE_string(
  'storyboard',
  None,
  'JSON file of the storyboard, or name of a shipped one, such as one_minute.',
)
_PROMPT = flags.DEFINE_multi_string(
  'prompt',
  None,
  'Text of three seconds, instead of a storyboard; may be given several times.',
)
_NEGATIVE = flags.DEFINE_string(
  'negative', '', 'Negative text of the guidance.'
)
_OUT = flags.DEFINE_string('out', None, 'MP4 file to write.')
_PRECOMPILE = flags.DEFINE_bool(
  'precompile', False, 'Compilation of the programs only, without running them.'
)
flags.register_multi_flags_validator(
  ['out', 'precompile'],
  lambda values: values['out'] is not None or values['precompile'],
  message=f'--out {cli.REQUIRED}',
)
flags.register_multi_flags_validator(
  ['storyboard', 'prompt'],
  lambda values: any(value is not None for value in values.values()),
  message=f'--storyboard or --prompt {cli.REQUIRED}',
)
_STEPS = common_flags.steps(None)
_GUIDANCE = common_flags.guidance(None)
_GUIDANCE_SCHEDULE = common_flags.guidance_schedule()
_SCHEDULER = common_flags.scheduler()
_REUSE = common_flags.reuse()
_SEED = common_flags.seed()
_MESH = common_flags.mesh()
_EMA = common_flags.ema()


def main(_: Sequence[str]) -> None:
  # Checks file names before the slow imports and the loading of a model.
  from ttt_jax.runtime import distributed
  from ttt_jax.video import contact_sheet

  out = None if _PRECOMPILE.value else _check_out()
  storyboard = _storyboard()
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
  sampling = pipe.sampling.replace(
    _STEPS.value, _GUIDANCE.value, _GUIDANCE_SCHEDULE.value
  )
  options: dict[str, Any] = dict(
    **msgspec.structs.asdict(sampling),
    scheduler=_SCHEDULER.value or pipe.scheduler,
    reuse=_REUSE.value,
  )
  if out is None:
    pipe.precompile(storyboard, **options)
    seconds = time.perf_counter() - start
    print(f'compiled the programs of the video in {seconds:.1f} s')
    return
  # Read before the long work.
  settings = _settings(pipe, storyboard, options)
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


def _storyboard() -> storyboard_lib.Storyboard:
  """Returns the storyboard of the flags."""
  prompts = _PROMPT.value or []
  if _STORYBOARD.value is None:
    for prompt in prompts:
      if prompt.endswith(files.LINE_SUFFIXES + ('.json',)):
        raise ValueError(
          f'--prompt is {prompt!r}, the name of a file; give'
          f' --storyboard={prompt}'
        )
    board = storyboard_lib.as_storyboard(prompts)
  elif prompts:
    raise ValueError('--storyboard and --prompt exclude each other; give one')
  else:
    board = storyboard_lib.Storyboard.load(_STORYBOARD.value)
  negative = _NEGATIVE.value
  segments = (
    dataclasses.replace(s, negative=s.negative or negative)
    for s in board.segments
  )
  return dataclasses.replace(board, segments=tuple(segments))


def _check_out() -> pathlib.Path:
  """Returns the file to write; raises ValueError if it cannot be written."""
  out = pathlib.Path(_OUT.value or '')
  if not f'{_OUT.value}'.endswith('.mp4'):  # A path drops a slash at its end.
    raise ValueError(f'--out is {_OUT.value}; it must end in .mp4')
  for path in (out, out.with_suffix('.png')):
    files.check_writable(path)
  return out


def _settings(pipe, storyboard, options) -> dict[str, Any]:
  """Returns the settings of the sampling that are stored in the file."""
  import ttt_jax
  from ttt_jax.checkpoints import checkpoint
  from ttt_jax.pipeline import pretrained

  folder = _WORKDIR.value
  if pretrained.is_pretrained(folder):
    made_by = dict(checkpoint=epath.Path(folder).resolve().name)
  else:
    made_by = checkpoint.describe(folder)
  negatives = {}
  if any(storyboard.negatives()):
    negatives = dict(negative_texts=storyboard.negatives())
  return dict(
    made_by,
    mixer=pipe.config.mixer,
    averaged_weights=_EMA.value,
    **options,
    seed=_SEED.value,
    version=f'ttt_jax {ttt_jax.__version__}',
    story=storyboard.name,
    texts=storyboard.prompts(),
    **negatives,
  )


if __name__ == '__main__':
  cli.run(main)
