"""Edits the video that a run was tuned on: same motion, other words.

    python -m ttt_jax.edit --workdir=DIR --prompt="Spider Man is skiing" \\
        --prompt="a man is skiing, comic style"

DIR is that of python -m ttt_jax.train with configs/tune_a_video.py or
configs/tune_dit.py. Writes, into --out, an MP4 and a GIF of every text, and
side_by_side.mp4 and .gif with the source first.
"""

from __future__ import annotations

import re
import time

from absl import flags

from ttt_jax.runtime import bucket
from ttt_jax.runtime import cli
from ttt_jax.runtime import paths

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the tuning.', required=True
)
_PROMPT = flags.DEFINE_multi_string(
  'prompt',
  None,
  'What the edit shows; may be given several times.',
  required=True,
)
_OUT = flags.DEFINE_string(
  'out', None, 'Folder of the results; default: WORKDIR/edits.'
)
_STEPS = flags.DEFINE_integer('steps', 50, 'DDIM steps, 1 to 1000.')
_GUIDANCE = flags.DEFINE_float('guidance', 12.5, 'Strength of the text.')
_NEGATIVE = flags.DEFINE_string('negative', '', 'What the edit does not show.')
_INVERSION = flags.DEFINE_bool(
  'inversion', True, 'Begin with the inverted source; else with noise.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the noise without inversion.')
_BATCH = flags.DEFINE_integer(
  'batch', None, 'Texts at once; fewer need less memory. Default: all.'
)
_MESH = flags.DEFINE_string(
  'mesh', None, 'Devices to split the network over, e.g. data:2,sp:4.'
)
_EMA = flags.DEFINE_bool('ema', True, 'Use the averaged weights.')


def main(_) -> None:
  from ttt_jax import sharding
  from ttt_jax.pipeline import edit
  from ttt_jax.runtime import progress
  from ttt_jax.video import contact_sheet
  from ttt_jax.video import video_file

  out = paths.on_disk(_OUT.value or f'{_WORKDIR.value}/edits', '--out')
  # What inversion finds is kept beside the run.
  bucket.check(_WORKDIR.value, write=True)
  mesh = None
  if _MESH.value:
    mesh = sharding.make_mesh(sharding.parse_mesh(_MESH.value))
  pipe = edit.EditPipeline.load(_WORKDIR.value, _EMA.value, mesh)
  prompts = _PROMPT.value
  rounds = -(-len(prompts) // (_BATCH.value or len(prompts)))
  if _INVERSION.value and not pipe.is_inverted(_STEPS.value):
    rounds += 1
  start = time.perf_counter()
  with progress.Bar('editing', _STEPS.value * rounds) as bar:
    edits = pipe(
      prompts,
      steps=_STEPS.value,
      guidance=_GUIDANCE.value,
      negative=_NEGATIVE.value,
      inversion=_INVERSION.value,
      seed=_SEED.value,
      batch=_BATCH.value,
      on_step=lambda _: bar.advance(),
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
  """A text as part of a file name."""
  return re.sub(r'\W+', '_', prompt.lower()).strip('_')[:40]


if __name__ == '__main__':
  cli.run(main)
