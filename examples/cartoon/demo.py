"""One minute of cartoon from a storyboard, judged. No training.

    python -m examples.cartoon.demo --workdir=demo                  # make demo
    python -m examples.cartoon.demo --workdir=demo --story=my.json

Samples the story with the shipped model, writes it as a video and a contact
sheet, and prints what the judge sees in every segment: who is there, in which
place, and whether later segments show what the first ones established.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import pathlib
import time

from absl import flags
import numpy as np
from PIL import Image

from examples.cartoon import script as script_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import schema

MODEL = 'package:ttt_jax/assets/cartoon'
_STORY = 'configs/storyboards/cartoon.json'
_ENLARGE = 5


def read_story(
  path: str,
) -> tuple[storyboard_lib.Storyboard, script_lib.Script]:
  """Reads a storyboard and what its texts mean in the cartoon world.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a storyboard, or the model has not seen its words.
  """
  story = storyboard_lib.Storyboard.load(path)
  try:
    script = script_lib.story_from_text([s.text for s in story.segments])
  except ValueError as e:
    raise ValueError(f'{path}: {e}') from e
  return story, script


def enlarge(frames: np.ndarray) -> np.ndarray:
  """Returns frames [n, H, W, 3] of `_ENLARGE` times the size, for the eye."""
  size = frames.shape[2] * _ENLARGE, frames.shape[1] * _ENLARGE
  return np.stack(
    [
      np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS))
      for f in frames
    ]
  )


def _define_flags() -> None:
  flags.DEFINE_string('workdir', 'demo', 'Folder of all outputs.')
  flags.DEFINE_string('story', _STORY, 'JSON file of the storyboard.')
  flags.DEFINE_string('model', MODEL, 'Folder of the model.')
  cli.define('seed', 0, 'Seed of the initial noise.', schema.Seed)
  cli.define('steps', 20, 'Sampling steps.', schema.PositiveInt)
  cli.define('guidance', 2.0, 'Strength of the guidance.', schema.FiniteFloat)


def main(argv: Sequence[str]) -> None:
  """Makes the video of the flags."""
  del argv
  values = flags.FLAGS
  workdir = paths.require_local(values.workdir, '--workdir')
  files.check_writable(workdir, folder=True)
  story, script = read_story(values.story)

  from examples.cartoon import judge
  from ttt_jax import pipeline
  from ttt_jax.video import contact_sheet
  from ttt_jax.video import video_file

  start = time.perf_counter()
  pipe = pipeline.VideoPipeline.load(paths.resolve(values.model))
  video = pipe(
    story,
    steps=values.steps,
    guidance=values.guidance,
    guidance_schedule='constant',
    seed=values.seed,
  )
  sampled = time.perf_counter() - start
  frames = np.asarray(video)
  workdir.mkdir(parents=True, exist_ok=True)
  video_path = workdir / 'cartoon.mp4'
  video_file.write_video(video_path, enlarge(frames), fps=pipe.fps)
  sheet_path = workdir / 'cartoon.png'
  contact_sheet.write_contact_sheet(
    contact_sheet.segment_frames(frames, len(story.segments)),
    sheet_path,
    labels=[s.text for s in story.segments],
  )
  verdict = judge.judge(frames, script)
  judge.print_verdict(verdict)
  verdict_path = workdir / 'verdict.json'
  files.write_json(dataclasses.asdict(verdict), verdict_path)
  print(
    f'sampled in {sampled:.0f} s, all in {time.perf_counter() - start:.0f} s'
  )
  for path in (video_path, sheet_path, verdict_path):
    print(f'wrote {path}')
  _print_next(workdir)


def _print_next(workdir: pathlib.Path) -> None:
  print(
    'next:\n'
    '  make demo STORY=my.json    your own story; '
    f'copy {_STORY}\n'
    '  make demo-train            train such a model from nothing\n'
    '  make demo-clips            three real clips, from pixels to a minute\n'
    f'  ttt-jax evaluate {workdir}/cartoon.mp4'
  )


if __name__ == '__main__':
  _define_flags()
  cli.run(main)
