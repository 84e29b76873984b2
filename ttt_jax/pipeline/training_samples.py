"""Samples videos during training, with the pipelines that users call."""

from __future__ import annotations

import os
import pathlib
import tempfile

from etils import epath
import jax

from ttt_jax import sharding
from ttt_jax import storyboard
from ttt_jax.pipeline import edit as edit_lib
from ttt_jax.pipeline import video as video_lib
from ttt_jax.runtime import disk
from ttt_jax.train import experiment as experiment_lib
from ttt_jax.train import loop
from ttt_jax.video import contact_sheet
from ttt_jax.video import video_file

_STEPS = 25  # of the sampler


def make_sample_hook(
  experiment: experiment_lib.Experiment, workdir: str | os.PathLike[str]
) -> loop.SampleHook | None:
  """Loads the encoders and returns the function that samples.

  A tuning samples one video per text in `config.edits`. Other training samples
  the storyboard of the first clip.

  Args:
    experiment: Experiment that trains.
    workdir: Folder of the training run.

  Returns:
    The hook of `loop.train`, or None if there is nothing to sample.
  """
  config = experiment.config
  if 'video' in config:
    return _edits(config, workdir) if config.edits else None
  board = storyboard.Storyboard.parse(experiment.clips[0]['storyboard'])
  pipe = video_lib.VideoPipeline.from_config(config, None, _mesh(config))

  def sample(params, step: int, folder: epath.Path) -> None:
    pipe.params = params
    _write(pipe(board, steps=_STEPS), pipe.fps, step, folder)

  return sample


def _edits(config, workdir):
  pipe = edit_lib.EditPipeline(config, None, workdir, _mesh(config))

  def sample(params, step: int, folder: epath.Path) -> None:
    pipe.params = params
    edits = pipe(config.edits, **config.sample)
    frames = contact_sheet.side_by_side(pipe.source, edits)
    _write(frames, pipe.fps, step, folder)

  return sample


def _mesh(config):
  """Returns the mesh of training; None for a single device."""
  mesh = sharding.make_mesh(config.mesh)
  return mesh if mesh.size > 1 else None


def _write(frames, fps, step, folder):
  """Writes STAGE/samples/STEP.mp4; the first process does."""
  if jax.process_index():
    return
  with tempfile.TemporaryDirectory() as temporary:
    out = pathlib.Path(temporary, f'{step:06d}.mp4')
    video_file.write_video(out, frames, fps=fps)
    disk.copy_to(temporary, epath.Path(folder) / 'samples')
