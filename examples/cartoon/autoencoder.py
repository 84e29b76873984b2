"""Trains the decoder of the cartoon's autoencoder.

    python -m examples.cartoon.autoencoder --config=configs/cartoon_vae.py \\
        --linear=cartoon/linear --workdir=DIR

The encoder is linear, see `examples.cartoon.linear`, and does not change.
Training draws its clips itself. The report is about stories of the validation
split, whose looks never occur in training.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from absl import flags
import numpy as np

from examples.cartoon import motion
from examples.cartoon import render
from examples.cartoon import world
from examples.vae import train as vae_train
from examples.vae.clips import Clip
from ttt_jax.runtime import cli
from ttt_jax.runtime import paths


def draw_clips(config) -> list[Clip]:
  """Draws the clips of the config: for training, then held out."""
  clips = []
  for split, count in (
    ('train', config.stories),
    ('validation', config.validation_stories),
  ):
    for seed in range(count):
      story = world.draw_story(
        seed, config.segments, world.SETTINGS[config.settings], split
      )
      frames = render.frames(
        story, config.height, config.width, step=world.FPS // config.fps
      )
      held_out = () if split == 'train' else ((0, len(frames)),)
      weights = None
      if split == 'train':
        drawn = _characters(story, frames, world.FPS // config.fps)
        weights = np.where(
          drawn, np.uint8(config.character_weight), np.uint8(1)
        )
      clips.append(Clip(story.name, frames, held_out, weights))
  return clips


def _characters(
  story: world.Story, frames: np.ndarray, step: int
) -> np.ndarray:
  """Returns where frames show characters, bool [n, H, W, 1].

  Args:
    story: Story.
    frames: Its frames, uint8 [n, H, W, 3].
    step: Frames of the story from one of them to the next.
  """
  empty = np.stack(
    [
      render.frame(
        dataclasses.replace(motion.state(story, i * step), characters=()),
        *frames.shape[1:3],
      )
      for i in range(len(frames))
    ]
  )
  return (empty != frames).any(axis=-1, keepdims=True)


def main(argv: Sequence[str]) -> int:
  """Trains the model of the flags."""
  del argv
  config = flags.FLAGS.config
  workdir = paths.require_local(flags.FLAGS.workdir, '--workdir')
  source = paths.resolve(flags.FLAGS.linear)
  report = vae_train.train_decoder(config, workdir, draw_clips(config), source)
  print(f'held-out PSNR: {report["held_out_psnr_db"]["mean"]:.2f} dB')
  print(f'wrote {workdir / "vae"}')
  return 0


if __name__ == '__main__':
  vae_train.define_flags()
  flags.DEFINE_string(
    'linear', None, 'Folder of the linear autoencoder.', required=True
  )
  cli.run(main)
