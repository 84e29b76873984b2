"""Cuts are found where they are."""

import sys

import numpy as np
import pytest

from tests.helpers import videos
from ttt_jax.annotation import scenes


def _scene(colour, frames):
  """Returns frames of one place in which a bright bar moves."""
  out = []
  for i in range(frames):
    pixels = np.full((32, 64, 3), colour, np.uint8)
    pixels[:, i % 60 : i % 60 + 4] += 30
    out.append(pixels)
  return out


def test_cuts_are_the_first_frames_of_scenes(tmp_path):
  pytest.importorskip('scenedetect')
  frames = [
    *_scene((30, 60, 90), 40),
    *_scene((200, 60, 30), 20),
    *_scene((30, 150, 40), 36),
  ]
  path = tmp_path / 'a.mp4'
  # Frames of different durations: a cut is a time, not a number.
  times = [100 * i if i < 40 else 4000 + 50 * (i - 40) for i in range(96)]
  videos.write(path, frames, times=times, rate=20)
  heard = []
  cuts = scenes.find(path, on_time=heard.append)
  assert cuts.times == (4.0, 5.0)
  assert cuts.seconds == pytest.approx(6.8)
  assert cuts.scenes() == [(0.0, 4.0), (4.0, 5.0), (5.0, cuts.seconds)]
  assert len(heard) >= 5
  assert scenes.find(path, shortest=1.5).times == (4.0,)


def test_without_the_library(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'scenedetect', None)
  with pytest.raises(ValueError, match=r'pip install "ttt_jax\[annotate\]"'):
    scenes.find(tmp_path / 'a.mp4')


def test_without_opencv(monkeypatch, tmp_path):
  (tmp_path / 'scenedetect.py').write_text('raise ImportError("a\\n\\nb")')
  monkeypatch.syspath_prepend(tmp_path)
  for name in ('scenedetect', 'scenedetect.detectors'):
    monkeypatch.delitem(sys.modules, name, raising=False)
  with pytest.raises(ValueError, match=r'not installed \(a b\): pip'):
    scenes.require()
