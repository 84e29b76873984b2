"""Fixtures of the data tests."""

import numpy as np
import pytest

from ttt_jax.data import shots


@pytest.fixture(name='videos')
def _videos(tmp_path, monkeypatch):
  """Makes a folder of fake videos of 60 frames; frame i has i + offset."""
  folder = tmp_path / 'videos'
  folder.mkdir()
  for offset, name in ((0, 'a'), (100, 'b'), (150, 'c')):
    (folder / f'{name}.mp4').write_text(str(offset))

  def read_video(path, *, fps, height, width, start, frames, soften):
    text = path.read_text()
    if not text.isdigit():
      raise ValueError(f'{path} cannot be read as a video\nmore lines')
    assert soften
    first = round(start * fps)
    if first + frames > 60:
      raise ValueError(f'{path} has 60 frames; {first + frames} are needed')
    numbers = np.arange(first, first + frames, dtype=np.uint8) + int(text)
    pixels = np.ones((height, width, 3), np.uint8)
    return numbers[:, None, None, None] * pixels

  monkeypatch.setattr(shots.video_file, 'read_video', read_video)
  return folder
