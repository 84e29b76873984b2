"""Times sampling that reuses late blocks, and compares its videos.

    python -m benchmarks.reuse [--stories=5] [--model=FOLDER]

Samples test stories of the cartoon world with every value of --reuse, and
prints seconds per video after compiling, the PSNR against the video of reuse 1,
and how many places, of those that return, are as at first.
"""

from __future__ import annotations

import time

from absl import flags
import numpy as np

from examples.cartoon import captions
from examples.cartoon import demo
from examples.cartoon import judge
from examples.cartoon import world
from ttt_jax import pipeline
from ttt_jax.runtime import cli

_MODEL = flags.DEFINE_string('model', f'{demo.MODEL}', 'Folder of the model.')
_STORIES = flags.DEFINE_integer('stories', 5, 'Number of stories.')
_SEGMENTS = flags.DEFINE_integer('segments', 21, 'Segments of a story.')
_STEPS = flags.DEFINE_integer('steps', 16, 'Sampling steps.')
_REUSE = flags.DEFINE_list('reuse', ['1', '2', '3', '4'], 'Values of reuse.')


def _psnr(frames: np.ndarray, exact: np.ndarray) -> float:
  error = np.mean((frames.astype(np.float32) - exact) ** 2)
  return float(10 * np.log10(255**2 / error)) if error else float('inf')


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  pipe = pipeline.VideoPipeline.load(_MODEL.value)
  options = dict(
    steps=_STEPS.value,
    guidance=1.0,
    guidance_schedule='constant',
    progress=False,
  )
  stories = [
    world.draw_story(i, _SEGMENTS.value, world.SETTINGS['simple'], 'test')
    for i in range(_STORIES.value)
  ]
  exact = {}
  print('| reuse | s per video | PSNR | returning places as at first |')
  print('| ---: | ---: | ---: | ---: |')
  for reuse in map(int, _REUSE.value):
    pipe(captions.storyboard(stories[0]), reuse=reuse, **options)  # compiles
    seconds, psnr, right, returns = 0.0, [], 0, 0
    for i, story in enumerate(stories):
      start = time.perf_counter()
      frames = np.asarray(
        pipe(captions.storyboard(story), reuse=reuse, seed=i, **options)
      )
      seconds += time.perf_counter() - start
      psnr.append(_psnr(frames, exact.setdefault(i, frames)))
      for event in judge.judge(frames, story).events:
        if event.kind == 'place' and event.is_return:
          returns += 1
          right += event.right
    print(
      f'| {reuse} | {seconds / len(stories):.1f} | {np.mean(psnr):.1f} |'
      f' {right} of {returns} |',
      flush=True,
    )


if __name__ == '__main__':
  cli.run(main)
