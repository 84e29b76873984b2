"""Writes an autoencoder of the cartoon world that is a linear map.

    python -m examples.cartoon.linear --out=DIR

It needs no training: 4x8x8 pixels become their first 32 principal components.
At 32x48 pixels and 4 frames per second that is 22 dB, too blurred for the eye;
what the judge still recognizes is in docs/remember.md. Mixers can be compared
with small models this way.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os

from absl import flags
import jax
import numpy as np

from examples.cartoon import render
from examples.cartoon import world
from examples.vae import train as vae_train
from examples.vae.clips import Clip
from ttt_jax import convert
from ttt_jax.models.vae.causal3d import CausalVAE
from ttt_jax.models.vae.causal3d import CausalVAEConfig
from ttt_jax.runtime import cli
from ttt_jax.runtime import schema

FPS = 4
HEIGHT, WIDTH = 32, 48
_CHANNELS = 32
_SEGMENTS = 5  # of a story


def write(
  out: str | os.PathLike[str], stories: int = 90, settings: str = 'simple'
) -> None:
  """Writes the autoencoder in diffusers' layout.

  The components are scaled by one factor, so that the mean square of all is 1.
  Distances of latents are then those of pixels, and a model learns first what
  is seen first.

  Args:
    out: Folder to create.
    stories: Number of training stories that the components describe.
    settings: Name of the choices of the stories, in `world.SETTINGS`.
  """
  clips = []
  for seed in range(stories):
    story = world.draw_story(seed, _SEGMENTS, world.SETTINGS[settings])
    frames = render.frames(story, HEIGHT, WIDTH, step=world.FPS // FPS)
    clips.append(Clip(story.name, frames, ()))
  config = CausalVAEConfig(
    latent_channels=_CHANNELS,
    # The network adds zero.
    block_out_channels=(4, 4, 4),
    layers_per_block=1,
    norm_num_groups=1,
    patch_size=2,
    linear_shortcut=True,
    scaling_factor=1.0,
  )
  params = vae_train.init_params(CausalVAE(config), clips, jax.random.key(0))
  # Deviations of pixels that one unit of a component makes.
  pixels = np.linalg.norm(
    params['decoder']['linear_shortcut']['kernel'], axis=1
  )
  scales = pixels / np.sqrt(np.mean(pixels**2))
  config = dataclasses.replace(
    config, scaling_factor=tuple(float(s) for s in scales)
  )
  convert.save_vae(config, params, out, dtype=np.float16)


def _define_flags() -> None:
  flags.DEFINE_string('out', None, 'Folder to create.', required=True)
  cli.define('stories', 90, 'Training stories to analyse.', schema.PositiveInt)
  flags.DEFINE_enum(
    'settings', 'simple', [*world.SETTINGS], 'Choices of the stories.'
  )


def main(argv: Sequence[str]) -> None:
  """Writes the folder of the flags."""
  del argv
  write(flags.FLAGS.out, flags.FLAGS.stories, flags.FLAGS.settings)
  print(f'wrote {flags.FLAGS.out}')


if __name__ == '__main__':
  _define_flags()
  cli.run(main)
