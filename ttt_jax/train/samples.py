"""Videos made while training, by the functions that users call."""

from __future__ import annotations

import os
import pathlib

from ttt_jax import editing
from ttt_jax import pipeline
from ttt_jax import storyboard
from ttt_jax.data import video
from ttt_jax.train import experiment as experiment_lib
from ttt_jax.train import loop

_STEPS = 25  # of the sampler


def hook(
    experiment: experiment_lib.Experiment, workdir: str | os.PathLike[str]
) -> loop.SampleHook | None:
  """What `loop.train` calls to make samples; loads the encoders.

  A tuning makes one video of each text in `config.edits` (none without any),
  other training the first clip's storyboard.

  Args:
    experiment: that trains.
    workdir: of the run.
  """
  config = experiment.config
  if 'video' in config:
    return _edits(config, workdir) if config.edits else None
  board = storyboard.Storyboard.parse(experiment.clips[0]['storyboard'])
  pipe = pipeline.VideoPipeline.from_config(config, None)

  def sample(params, step: int, folder: pathlib.Path) -> None:
    pipe.params = params
    out = folder / 'samples' / f'{step:06d}.mp4'
    out.parent.mkdir(exist_ok=True)
    video.write_video(out, pipe(board, steps=_STEPS), fps=pipe.fps)

  return sample


def _edits(config, workdir):
  pipe = editing.EditPipeline(config, None, workdir)

  def sample(params, step: int, folder: pathlib.Path) -> None:
    pipe.params = params
    edits = pipe(config.edits, **config.sample)
    out = folder / 'samples' / f'{step:06d}.mp4'
    out.parent.mkdir(exist_ok=True)
    frames = editing.side_by_side(pipe.source, edits)
    video.write_video(out, frames, fps=pipe.fps)

  return sample
