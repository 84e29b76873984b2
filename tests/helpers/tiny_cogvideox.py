"""Writes a tiny CogVideoX, and videos, in the layouts of the real ones.

    python -m tests.helpers.tiny_cogvideox FOLDER

makes FOLDER/CogVideoX-5b with random weights (32x48 pixels, two layers) and
FOLDER/videos with two short cartoons of a square.
"""

import pathlib
import sys
import tempfile

import jax
import numpy as np

from examples import tiny_cogvideox
from ttt_jax import convert
from ttt_jax.models.vae import causal3d
from ttt_jax.video import video_file

_WORDS = """A red square moves to the right over a grey floor. The red square
reaches the wall. Night. The square sleeps. A green square waits. It jumps. It
lands. The quick brown fox jumps over the lazy dog and seven wizards."""


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes both; returns the model's folder."""
  model = folder / 'CogVideoX-5b'
  write_model(model)
  write_videos(folder / 'videos')
  return model


def write_model(folder: pathlib.Path) -> None:
  """Writes a model that is smaller still: its autoencoder is random, too."""
  vae = causal3d.CausalVAEConfig(
    block_out_channels=(8, 8, 16, 16),
    latent_channels=4,
    layers_per_block=1,
    norm_num_groups=4,
    scaling_factor=0.7,
  )
  frames = np.zeros((1, 1, 16, 16, 3), np.float32)
  params = jax.eval_shape(
    causal3d.CausalVAE(vae).init, jax.random.key(0), frames
  )
  params = tiny_cogvideox.draw_params(params['params'])
  with tempfile.TemporaryDirectory() as temporary:
    part = pathlib.Path(temporary, 'vae')
    convert.save_vae(vae, params, part)
    tiny_cogvideox.write_model(
      folder, height=32, width=48, vae=part, words=_WORDS.split('.')
    )


def write_videos(folder: pathlib.Path) -> None:
  """ep01.mp4 of 11 s at 24 fps and ep02.mp4 of 9 s at 16, a moving square."""
  folder.mkdir(parents=True)
  for name, seconds, fps, colour in (
    ('ep01', 11, 24, (200, 30, 30)),
    ('ep02', 9, 16, (30, 180, 60)),
  ):
    frames = np.full((seconds * fps, 48, 64, 3), 120, np.uint8)
    for i, frame in enumerate(frames):
      left = round(48 * i / len(frames))
      frame[16:32, left : left + 16] = colour
    video_file.write_video(folder / f'{name}.mp4', frames, fps=fps)


if __name__ == '__main__':
  write(pathlib.Path(sys.argv[1]))
