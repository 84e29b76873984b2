"""ttt_jax/evaluation/shot_recall.py: which shot a segment shows."""

import types

import numpy as np
import pytest

from ttt_jax import storyboard as storyboard_lib
from ttt_jax.evaluation import shot_recall
from ttt_jax.video import video_file


def story(*shots, name='story'):
  segments = [
    dict(text='x', video=video, start=start) for video, start in shots
  ]
  return storyboard_lib.Storyboard.parse(dict(name=name, segments=segments))


@pytest.fixture
def references():
  rng = np.random.default_rng(0)
  noise = lambda: rng.integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
  return {
    ('a.mp4', 0.0): noise(),
    ('a.mp4', 2.0): noise(),
    ('b.mp4', 0.0): noise(),
  }


def test_nearest_shot_and_its_psnr(references):
  a, a2, b = references
  expected = story(a, b, a2)
  shown = np.concatenate(
    [references[a], references[a2][1:], references[a2][1:]]
  )
  off = shown.copy()
  off[1:5] += np.where(off[1:5] < 255, 1, -1).astype(np.uint8)
  recall = shot_recall.judge(expected, off, references)
  assert recall.expected == (0, 2, 1)
  assert recall.shown == (0, 1, 1)
  assert recall.psnr[0] == pytest.approx(20 * np.log10(255))
  assert recall.share_right() == pytest.approx(2 / 3)
  assert recall.share_right(1) == 0.5
  assert recall.share_right(2) == 1.0


def test_shots_of_one_file_differ_by_their_start():
  shots = shot_recall.distinct_shots(
    [story(('a', 0), ('a', 2)), story(('a', 2), ('b', 0))]
  )
  assert shots == [('a', 0.0), ('a', 2.0), ('b', 0.0)]


def test_a_segment_without_a_video():
  plain = storyboard_lib.Storyboard.parse(
    dict(name='plain', segments=[dict(text='x')])
  )
  with pytest.raises(
    ValueError, match='segment 1 of .*\'plain\' has no "video"'
  ):
    shot_recall.distinct_shots([plain])


def test_reconstructs_one_segment_of_each_shot(tmp_path):
  frames = np.random.default_rng(0).integers(0, 256, (9, 16, 32, 3))
  video_file.write_video(tmp_path / 'a.mp4', frames.astype(np.uint8), fps=4)
  pipe = types.SimpleNamespace(
    fps=4,
    height=16,
    width=32,
    segment_frames=2,
    encode=lambda frames: frames[None] / 255,
    decode=lambda latents: np.round(latents[0] * 255).astype(np.uint8),
  )
  shots = [('a.mp4', 0.0), ('a.mp4', 1.0)]
  found = shot_recall.reconstruct_shots(pipe, shots, str(tmp_path), False)
  assert list(found) == shots
  for start, reconstruction in zip((0, 4), found.values()):
    expected = video_file.read_video(
      tmp_path / 'a.mp4', fps=4, height=16, width=32, soften=False
    )[start : start + 3]
    np.testing.assert_array_equal(reconstruction, expected)
