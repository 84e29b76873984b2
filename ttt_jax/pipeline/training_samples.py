"""Videos made while training, by the functions that users call."""

from __future__ import annotations

import os
import pathlib
import tempfile

from etils import epath
import jax

from ttt_jax import pipeline
from ttt_jax import sharding
from ttt_jax import storyboard
from ttt_jax.pipeline import edit
from ttt_jax.runtime import disk
from ttt_jax.train import experiment as experiment_lib
from ttt_jax.train import loop
from ttt_jax.video import contact_sheet
from ttt_jax.video import video_file

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
  pipe = pipeline.VideoPipeline.from_config(config, None, _mesh(config))

  def sample(params, step: int, folder: epath.Path) -> None:
    pipe.params = params
    _write(pipe(board, steps=_STEPS), pipe.fps, step, folder)

  return sample


def _edits(config, workdir):
  pipe = edit.EditPipeline(config, None, workdir, _mesh(config))

  def sample(params, step: int, folder: epath.Path) -> None:
    pipe.params = params
    edits = pipe(config.edits, **config.sample)
    frames = contact_sheet.side_by_side(pipe.source, edits)
    _write(frames, pipe.fps, step, folder)

  return sample


def _mesh(config):
  """That of training, where it is more than one device."""
  mesh = sharding.make_mesh(config.mesh)
  return mesh if mesh.size > 1 else None


def _write(frames, fps, step, folder):
  """Writes STAGE/samples/STEP.mp4, by one of several processes."""
  if jax.process_index():
    return
  with tempfile.TemporaryDirectory() as draft:
    out = pathlib.Path(draft, f'{step:06d}.mp4')
    video_file.write_video(out, frames, fps=fps)
    disk.mirror(draft, epath.Path(folder) / 'samples')
