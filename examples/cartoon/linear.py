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
from examples.cartoon import story as story_lib
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
CHANNELS, CELL = 32, 8
_FRAMES = 4  # per latent frame
_SEGMENTS = 5  # of a story


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of the frames and of the latents.

  Attributes:
    height: Pixel rows.
    width: Pixel columns.
    fps: Frames per second.
    channels: Principal components.
    cell: Pixel rows and columns of one latent, a multiple of 4.
    balance: Equality of the components, see `balanced_scales`.
  """

  height: int = HEIGHT
  width: int = WIDTH
  fps: int = FPS
  channels: int = CHANNELS
  cell: int = CELL
  balance: float = 0.0

  def __post_init__(self):
    render.check_size(self.height, self.width)
    render.check_fps(self.fps)
    if self.cell % 4 or self.height % self.cell or self.width % self.cell:
      raise ValueError(
        f'cell is {self.cell}; it must be a multiple of 4 that divides'
        f' {self.height}x{self.width}, for example {CELL}'
      )
    most = 3 * _FRAMES * self.cell**2
    if not 1 <= self.channels <= most:
      raise ValueError(
        f'channels is {self.channels}; expected 1 to {most}, the values of a'
        ' cell'
      )
    if not 0 <= self.balance <= 1:
      raise ValueError(f'balance is {self.balance}; expected 0 to 1')


def balanced_scales(pixels: np.ndarray, balance: float) -> np.ndarray:
  """Returns the standard deviations of components in model units, float [c].

  Args:
    pixels: Deviation of the pixels of one component, [c].
    balance: From 0 to 1. 0: distances of latents are those of pixels, and a
      model learns first what is seen first. 1: all deviations are 1. In
      between, deviations are `pixels ** (1 - balance)` times one factor; the
      mean of their squares is 1.
  """
  scales = pixels ** (1 - balance)
  return scales / np.sqrt(np.mean(scales**2))


def write(
  out: str | os.PathLike[str],
  stories: int = 90,
  settings: str = 'simple',
  sizes: Sizes = Sizes(),
) -> None:
  """Writes the autoencoder in diffusers' layout.

  Args:
    out: Folder to create.
    stories: Number of training stories that the components describe.
    settings: Name of the choices of the stories, in `world.SETTINGS`.
    sizes: Sizes of frames and latents.
  """
  clips = []
  for seed in range(stories):
    story = world.draw_story(seed, _SEGMENTS, world.SETTINGS[settings])
    frames = render.frames(
      story, sizes.height, sizes.width, step=story_lib.FPS // sizes.fps
    )
    clips.append(Clip(story.name, frames, ()))
  config = CausalVAEConfig(
    latent_channels=sizes.channels,
    # The network adds zero.
    block_out_channels=(4, 4, 4),
    layers_per_block=1,
    norm_num_groups=1,
    patch_size=sizes.cell // 4,
    linear_shortcut=True,
    scaling_factor=1.0,
  )
  params = vae_train.init_params(CausalVAE(config), clips, jax.random.key(0))
  # Deviations of pixels that one unit of a component makes.
  pixels = np.linalg.norm(
    params['decoder']['linear_shortcut']['kernel'], axis=1
  )
  scales = balanced_scales(pixels, sizes.balance)
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
  cli.define('height', HEIGHT, 'Pixel rows.', schema.PositiveInt)
  cli.define('width', WIDTH, 'Pixel columns.', schema.PositiveInt)
  cli.define('fps', FPS, 'Frames per second.', schema.PositiveInt)
  cli.define('channels', CHANNELS, 'Components.', schema.PositiveInt)
  cli.define('cell', CELL, 'Pixel rows of a latent.', schema.PositiveInt)
  cli.define(
    'balance', 0.0, 'Equality of the components, 0 to 1.', schema.FiniteFloat
  )


def main(argv: Sequence[str]) -> None:
  """Writes the folder of the flags."""
  del argv
  values = flags.FLAGS
  sizes = Sizes(
    **{f.name: values[f.name].value for f in dataclasses.fields(Sizes)}
  )
  write(values.out, values.stories, values.settings, sizes)
  print(f'wrote {values.out}')


if __name__ == '__main__':
  _define_flags()
  cli.run(main)
