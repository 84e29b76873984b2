"""Training windows never contain held-out frames; all are measured."""

import numpy as np

from examples.vae import clips


def numbered(count, held_out, base):
  """Returns a clip whose pixels contain the index of their frame."""
  frames = np.arange(base, base + count, dtype=np.uint8)
  shape = (count, 2, 2, 3)
  return clips.Clip(
    'c', np.broadcast_to(frames[:, None, None, None], shape), held_out
  )


def indices(batch):
  """Returns the indices of the frames [b, n, H, W, 3]."""
  return np.round((batch[:, :, 0, 0, 0] + 1) * 127.5).astype(int)


CLIPS = (
  numbered(60, ((20, 30), (50, 60)), 0),
  numbered(84, ((68, 84),), 100),
)


def test_training_windows_exclude_held_out_frames():
  rng = np.random.default_rng(0)
  batch = clips.windows(CLIPS, 200, 25, 0.5, rng)
  assert batch.shape == (200, 25, 2, 2, 3)
  seen = set(indices(batch).ravel())
  held = {*range(20, 30), *range(50, 60), *range(168, 184)}
  assert not seen & held
  assert seen >= set(range(20)) | set(range(100, 160))


def test_share_of_windows_with_a_cut():
  rng = np.random.default_rng(0)
  one = (CLIPS[1],)
  for cuts, low, high in ((0.0, 0.0, 0.0), (0.5, 0.3, 0.6)):
    batch = clips.windows(one, 400, 17, cuts, rng)
    share = (np.diff(indices(batch), axis=1) != 1).any(axis=1).mean()
    assert low <= share <= high


def test_windows_at_multiples_of_a_stride():
  rng = np.random.default_rng(0)
  batch = clips.windows((CLIPS[1],), 100, 17, 0.0, rng, stride=4)
  assert {*(indices(batch)[:, 0] - 100)} == {*range(0, 68 - 17 + 1, 4)}


def test_every_held_out_frame_is_measured():
  for clip in CLIPS:
    found = set()
    for start, inside in clips.held_out_windows(clip, 49):
      assert 0 <= start <= len(clip.frames) - 49
      assert inside.min() >= 0 and inside.max() < 49
      found |= set(inside + start)
    assert found == {i for a, b in clip.held_out for i in range(a, b)}
