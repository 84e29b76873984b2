"""One minute of cartoon from a storyboard, judged. No training.

    python -m examples.cartoon.demo [--story=my.json] [--model=cartoon/model]

Samples the story with the shipped model, or with another one of
`examples.cartoon.train`, writes it as a video and a contact sheet, and prints
what the judge sees in every segment: who is there, in which place, and whether
later segments show what the first ones established.
"""

from __future__ import annotations

from collections.abc import Sequence
import difflib
import functools
import os
import pathlib
import time
from typing import Any

from absl import flags
import numpy as np
from PIL import Image

from examples.cartoon import captions
from examples.cartoon import script as script_lib
from examples.cartoon import words
from examples.cartoon import world
from ttt_jax import common_flags
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import schema

# The shipped model and its storyboard.
_FOLDER = pathlib.Path(__file__).parent
MODEL = _FOLDER / 'model'
STORY = _FOLDER / 'story.json'
_ENLARGE = 5
# So many stories have all words that simple stories can have.
_STORIES = 200
_GROUPS = (
  words.NAMES,
  words.SPECIES,
  words.COLOURS,
  words.ACCESSORIES,
  words.PLACES,
  words.LANDMARKS,
  words.PROPS,
  tuple(verb for verbs in words.VERBS.values() for verb in verbs),
)


def read_story(
  path: str | os.PathLike[str],
) -> tuple[storyboard_lib.Storyboard, script_lib.Script]:
  """Reads a storyboard, and the meaning of its texts in the cartoon world.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a storyboard, or its words occur in no training story.
  """
  story = storyboard_lib.Storyboard.load(path)
  texts = [segment.text for segment in story.segments]
  try:
    script = script_lib.story_from_text(texts)
    check_words(texts)
  except ValueError as e:
    raise ValueError(f'{path}: {e}') from e
  return story, script


def check_words(texts: Sequence[str]) -> None:
  """Raises ValueError for the first word that occurs in no training story.

  Args:
    texts: Text of every segment.
  """
  seen = _seen_words()
  for i, text in enumerate(texts, 1):
    for word in words.tokens(text, i):
      if word in seen:
        continue
      alike = next((group for group in _GROUPS if word in group), ())
      known = [w for w in alike if w in seen]
      known = known or difflib.get_close_matches(word, seen, cutoff=0.0)
      raise ValueError(
        f'the model was not trained on the word {word!r} of segment {i}; known'
        f' are for example {", ".join(known)}'
      )


@functools.cache
def _seen_words() -> frozenset[str]:
  """Returns the words of the captions of training stories."""
  settings = world.SETTINGS['simple']
  return frozenset(
    word
    for seed in range(_STORIES)
    for text in captions.captions(world.draw_story(seed, 6, settings))
    for word in words.tokens(text)
  )


def make(
  pipe: Any,
  story: storyboard_lib.Storyboard,
  script: script_lib.Script,
  workdir: pathlib.Path,
  **options: Any,
) -> list[pathlib.Path]:
  """Samples a story, judges the video, prints the verdict and writes all.

  Args:
    pipe: `VideoPipeline` of a model of this world.
    story: Storyboard.
    script: Meaning of its texts.
    workdir: Folder of the outputs.
    **options: Arguments of the pipeline.

  Returns:
    Paths of the video, the contact sheet and the verdict.
  """
  from examples.cartoon import judge
  from examples.cartoon import verdict as verdict_lib
  from ttt_jax.video import contact_sheet
  from ttt_jax.video import video_file

  start = time.perf_counter()
  frames = np.asarray(pipe(story, **options))
  sampled = time.perf_counter() - start
  workdir.mkdir(parents=True, exist_ok=True)
  video, sheet, report = (
    workdir / f'cartoon.{suffix}' for suffix in ('mp4', 'png', 'json')
  )
  video_file.write_video(video, enlarge(frames), fps=pipe.fps)
  contact_sheet.write_contact_sheet(
    contact_sheet.segment_frames(frames, len(story.segments)),
    sheet,
    labels=[s.text for s in story.segments],
  )
  verdict = judge.judge(frames, script, story.name)
  verdict_lib.print_verdict(verdict)
  files.write_json(verdict_lib.to_json([verdict]), report)
  judged = time.perf_counter() - start - sampled
  print(f'sampled in {sampled:.0f} s; written and judged in {judged:.0f} s')
  return [video, sheet, report]


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
  flags.DEFINE_string(
    'story', None, 'JSON file of the storyboard; None is one of ours.'
  )
  flags.DEFINE_string(
    'model', None, 'Folder of the model; None is the shipped one.'
  )
  cli.define('seed', 0, 'Seed of the initial noise.', schema.Seed)
  common_flags.steps(None)
  common_flags.guidance(None)


def main(argv: Sequence[str]) -> None:
  """Makes the video of the flags."""
  del argv
  values = flags.FLAGS
  workdir = paths.require_local(values.workdir, '--workdir')
  files.check_writable(workdir, folder=True)
  story, script = read_story(values.story or STORY)

  from ttt_jax import pipeline

  written = make(
    pipeline.VideoPipeline.load(paths.resolve(values.model or f'{MODEL}')),
    story,
    script,
    workdir,
    steps=values.steps,
    guidance=values.guidance,
    seed=values.seed,
  )
  for path in written:
    print(f'wrote {path}')
  _print_next(workdir)


def _print_next(workdir: pathlib.Path) -> None:
  print(
    'next:\n'
    '  make demo STORY=my.json    a story of yours, in the form of'
    ' examples/cartoon/story.json\n'
    f'  ttt-jax evaluate {workdir}/cartoon.mp4'
  )


if __name__ == '__main__':
  _define_flags()
  cli.run(main)
