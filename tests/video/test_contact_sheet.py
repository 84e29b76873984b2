"""Contact sheets."""

import os

import numpy as np
from PIL import Image
import pytest

from ttt_jax.video import contact_sheet


def test_contact_sheet(tmp_path):
  frames = np.zeros((5, 64, 96, 3), np.uint8)
  frames[:] = np.array([10, 60, 110, 160, 210])[:, None, None, None]
  path = tmp_path / 'a.png'
  contact_sheet.write_contact_sheet(frames, path, columns=2)
  sheet = np.asarray(Image.open(path))
  # Two columns, three rows of frames at double size, gaps of 4.
  assert sheet.shape == (4 + 3 * (128 + 4), 4 + 2 * (192 + 4), 3)
  for i, value in enumerate((10, 60, 110, 160, 210)):
    y, x = 4 + i // 2 * 132, 4 + i % 2 * 196
    assert (sheet[y : y + 128, x : x + 192] == value).all()
  labels = ['a label that is much wider than the frame above it'] * 5
  contact_sheet.write_contact_sheet(frames, path, columns=2, labels=labels)
  labelled = np.asarray(Image.open(path))
  assert labelled.shape[0] == sheet.shape[0] + 3 * 18
  strip = labelled[4 + 128 : 4 + 128 + 18]
  assert (strip[:, 4:196] < 128).any() and (strip[:, 197:199] == 255).all()
  with pytest.raises(ValueError, match='1 labels for 5 frames'):
    contact_sheet.write_contact_sheet(frames, path, labels=['x'])
  assert os.listdir(tmp_path) == ['a.png']


def test_the_middle_frame_of_each_segment():
  frames = np.arange(49 + 48 + 48)
  assert contact_sheet.segment_frames(frames, 3).tolist() == [25, 73, 121]
