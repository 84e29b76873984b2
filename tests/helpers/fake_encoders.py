"""Stand-ins for the encoders and videos of precompute's tests."""

import zlib

import numpy as np

from ttt_jax import geometry as geometry_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import precompute as precompute_lib

# 2 latent frames a segment: the first has 9 pixel frames, the others 8.
GEOMETRY = geometry_lib.Geometry(
  frames=17,
  height=16,
  width=32,
  fps=16,
  text_length=5,
  mini_batch=8,
  segment_latent_frames=2,
)


class FakeVAE:
  """Means of the pixels; `calls` counts, `stop_at` interrupts a call."""

  identity = 'fake:1'
  scale = 1.0

  def __init__(self, stop_at=None):
    self.calls = 0
    self.stop_at = stop_at

  def encode(self, frames):
    self.calls += 1
    if self.calls == self.stop_at:
      raise KeyboardInterrupt
    assert frames.dtype == np.uint8 and frames.shape == (17, 16, 32, 3)
    mean = frames[::4, ::8, ::8, :].astype(np.float32) / 255
    return mean, np.full_like(mean, -3)


class FakeText:
  """One token a word; token i of a text of n words holds i + n / 10.

  The last column tells texts of as many words apart.
  """

  identity = 'fake-text:1'
  scene_token_ids = (1, 2)
  width = 4
  text_length = 5

  def __init__(self):
    self.batches = []

  def tokenize(self, text):
    """Scene tokens are 1 and 2, words 3 and more."""
    spaced = text.replace('<', ' <').replace('>', '> ')
    known = {'<start_scene>': 1, '<end_scene>': 2}
    return [known.get(word, 2 + len(word)) for word in spaced.split()]

  def count_tokens(self, text):
    return len(text.split())

  def encode(self, texts):
    self.batches.append(list(texts))
    out = np.zeros((len(texts), 5, 4), np.float32)
    for line, text in zip(out, texts):
      words = len(text.split())
      line[:words] = (np.arange(words) + words / 10)[:, None]
      line[:words, -1] = zlib.crc32(text.encode()) % 1000
    return out


def story(name, *segments):
  """segments: (text, video, start)."""
  return storyboard_lib.Storyboard.parse(
    {
      'name': name,
      'segments': [
        {k: v for k, v in zip(('text', 'video', 'start'), s) if v is not None}
        for s in segments
      ],
    }
  )


def stories():
  return [
    story(n, (f'the film {n}', f'{n}.mp4', 0), ('goes on', f'{n}.mp4', 0.5))
    for n in 'abc'
  ]


def encode(videos, out, storyboards=None, vae=None, text=None):
  return precompute_lib.precompute(
    stories() if storyboards is None else storyboards,
    videos_dir=str(videos),
    vae=vae or FakeVAE(),
    text_encoder=text or FakeText(),
    geometry=GEOMETRY,
    out=out,
    progress=False,
  )
