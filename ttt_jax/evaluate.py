"""Measures how often a trained model shows the expected shot.

    python -m ttt_jax.evaluate --workdir=DIR --storyboards=FILE [--seeds=3]

For models trained on a few clips: samples every storyboard of FILE, compares
each segment with the VAE's reconstruction of all shots in FILE, and counts how
often the nearest shot is the expected one. Writes a JSON file and, per
storyboard, a contact sheet of the first seed.
"""

from __future__ import annotations

import dataclasses

from absl import flags
import numpy as np

from ttt_jax import config_schema
from ttt_jax.diffusion import guidance
from ttt_jax.runtime import bucket
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import schema

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the training run.', required=True
)
_STORYBOARDS = flags.DEFINE_string(
  'storyboards',
  None,
  'JSON file of the storyboards, with a video for each segment.',
  required=True,
)
_VIDEOS = flags.DEFINE_string(
  'videos', '', 'Folder of the videos; default: that of the config.'
)
_OUT = flags.DEFINE_string(
  'out', '', 'JSON file to write; default: WORKDIR/evaluation.json.'
)
_SEEDS = cli.define('seeds', 1, 'Samples per storyboard.', schema.PositiveInt)
_STEPS = cli.define(
  'steps', 25, 'Sampling steps, 1 to 1000.', config_schema.Steps
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
_FIRST = cli.define(
  'first_segment',
  0,
  'Index of the first segment that is scored.',
  schema.NonNegativeInt,
)


def main(_) -> None:
  from ttt_jax import storyboard as storyboard_lib
  from ttt_jax.evaluation import shot_recall

  storyboards = storyboard_lib.load_storyboards(_STORYBOARDS.value)
  shots = shot_recall.distinct_shots(storyboards)
  for story in storyboards:  # The name becomes part of a file's.
    paths.check_name(story.name, 'the name of a storyboard')
  shortest = min(len(s.segments) for s in storyboards)
  if _FIRST.value >= shortest:
    raise ValueError(
      f'--first_segment is {_FIRST.value}, but a storyboard has {shortest}'
      f' segments; the last index is {shortest - 1}'
    )

  from ttt_jax import pipeline
  from ttt_jax.checkpoints import checkpoint
  from ttt_jax.runtime import progress
  from ttt_jax.video import contact_sheet

  workdir = _WORKDIR.value
  out = paths.require_local(_OUT.value or f'{workdir}/evaluation.json', '--out')
  files.check_writable(out)
  bucket.check(workdir)
  config = checkpoint.load_config(workdir)
  pipe = pipeline.VideoPipeline.load(workdir)
  references = shot_recall.reconstruct_shots(
    pipe, shots, _VIDEOS.value or config.data.videos, config.data.soften
  )
  recalls = []
  runs = [(s, seed) for s in storyboards for seed in range(_SEEDS.value)]
  for story, seed in progress.track(runs, 'sampling and scoring'):
    frames = pipe(
      story,
      steps=_STEPS.value,
      guidance=_GUIDANCE.value,
      guidance_schedule=_GUIDANCE_SCHEDULE.value,
      seed=seed,
    )
    recalls.append((seed, shot_recall.judge(story, frames, references)))
    if seed == 0:
      contact_sheet.write_contact_sheet(
        contact_sheet.segment_frames(frames, len(story.segments)),
        out.with_name(f'{out.stem}_{story.name}.png'),
      )
  first = _FIRST.value
  for seed, recall in recalls:
    right = recall.share_right(first)
    print(
      f'  {recall.name:<24} seed {seed}: right {right:6.1%}, nearest shot at'
      f' {np.mean(recall.psnr):.1f} dB,'
      f' shown {"".join(map(str, recall.shown))}'
    )
  share = float(np.mean([r.share_right(first) for _, r in recalls]))
  print(
    f'right in {share:.1%} of the segments from index {first}; chance is'
    f' {1 / len(shots):.0%}'
  )
  result = dict(
    storyboards=_STORYBOARDS.value,
    steps=_STEPS.value,
    guidance=_GUIDANCE.value,
    guidance_schedule=_GUIDANCE_SCHEDULE.value,
    first_segment=first,
    shots=shots,
    share_right=share,
    chance=1 / len(shots),
    samples=[dict(seed=s) | dataclasses.asdict(r) for s, r in recalls],
  )
  files.write_json(result, out)
  print(f'wrote {out} and a contact sheet per storyboard')


if __name__ == '__main__':
  cli.run(main)
