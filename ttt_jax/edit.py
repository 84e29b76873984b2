"""Edits the video of a tuning: same motion, other words.

    ttt-jax edit --workdir=DIR --prompt="Spider Man is skiing" \\
        --prompt="a man is skiing, comic style"
    ttt-jax edit --workdir=DIR --prompt="a dog runs" --noinversion --seed=1

DIR is the folder of a training run with configs/tune_a_video.py or
configs/tune_dit.py. Writes an MP4 and a GIF per text to --out, and
side_by_side.mp4 and .gif, which begin with the source.
"""

from __future__ import annotations

from collections.abc import Sequence
import re
import time

from absl import flags

from ttt_jax import common_flags
from ttt_jax.runtime import bucket
from ttt_jax.runtime import cli
from ttt_jax.runtime import compilation
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import schema

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the training run.', required=True
)
_PROMPT = flags.DEFINE_multi_string(
  'prompt',
  None,
  'Text of an edit; may be given several times.',
  required=True,
)
_OUT = flags.DEFINE_string(
  'out', None, 'Folder to write; default: WORKDIR/edits.'
)
_STEPS = common_flags.steps(50)
_GUIDANCE = common_flags.guidance(12.5)
_NEGATIVE = flags.DEFINE_string(
  'negative', '', 'Negative text of the guidance.'
)
_INVERSION = flags.DEFINE_bool(
  'inversion', True, 'Inverted source as the start, instead of initial noise.'
)
_SEED = common_flags.seed()
_BATCH = cli.define(
  'batch', None, 'Texts sampled at once; default: all.', schema.PositiveInt
)
_MESH = common_flags.mesh()
_EMA = common_flags.ema()


def main(_: Sequence[str]) -> None:
  from ttt_jax import sharding
  from ttt_jax.pipeline import edit
  from ttt_jax.video import contact_sheet
  from ttt_jax.video import video_file

  out = paths.require_local(_OUT.value or f'{_WORKDIR.value}/edits', '--out')
  for prompt in _PROMPT.value:
    if not prompt.strip():
      raise ValueError(f'--prompt is {prompt!r}; describe what the edit shows')
    prompt.encode()  # Raises an error for lone surrogates.
  files.check_writable(out, folder=True)
  # The result of the inversion is saved in the run.
  bucket.check(_WORKDIR.value, write=True)
  compilation.enable_compilation_cache(_WORKDIR.value, optional=True)
  mesh = None
  if _MESH.value:
    mesh = sharding.make_mesh(sharding.parse_mesh(_MESH.value))
  pipe = edit.EditPipeline.load(_WORKDIR.value, _EMA.value, mesh)
  prompts = _PROMPT.value
  start = time.perf_counter()
  edits = pipe(
    prompts,
    steps=_STEPS.value,
    guidance=_GUIDANCE.value,
    negative=_NEGATIVE.value,
    inversion=_INVERSION.value,
    seed=_SEED.value,
    batch=_BATCH.value,
  )
  print(f'edited in {time.perf_counter() - start:.1f} s')
  out.mkdir(parents=True, exist_ok=True)
  results = {
    f'{i:02d}_{_slug(prompt)}': frames
    for i, (prompt, frames) in enumerate(zip(prompts, edits), 1)
  }
  results['side_by_side'] = contact_sheet.side_by_side(pipe.source, edits)
  for name, frames in results.items():
    video_file.write_video(out / f'{name}.mp4', frames, fps=pipe.fps)
    contact_sheet.write_gif(out / f'{name}.gif', frames, pipe.fps)
    print(f'wrote {out / name}.mp4 and .gif ({len(frames)} frames)')


def _slug(prompt: str) -> str:
  """Converts a text to a part of a file name."""
  return re.sub(r'\W+', '_', prompt.lower()).strip('_')[:40]


if __name__ == '__main__':
  cli.run(main)
