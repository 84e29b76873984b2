"""Numbers of videos whose faults are known."""

import json

import numpy as np
from PIL import Image
from PIL import ImageFilter
import pytest

from tests.helpers import videos
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.evaluation import video_frames
from ttt_jax.evaluation import video_report
from ttt_jax.video import video_file

FPS = 8
SEGMENTS = 5
COUNT = SEGMENTS * 3 * FPS + 1


def pictures(count, seed=0):
  """Coloured patterns, float64 [count, 64, 96, 3]."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (count, 6, 8, 3)).astype(np.uint8)
  big = [Image.fromarray(x).resize((96, 64), 2) for x in small]
  return np.stack(big).astype(float)


def drifting(count=COUNT, keys=6):
  """Frames that slowly turn into others."""
  shown = pictures(keys)
  place = np.linspace(0, keys - 1, count)
  low = np.minimum(place.astype(int), keys - 2)
  share = (place - low)[:, None, None, None]
  return shown[low] * (1 - share) + shown[low + 1] * share


def analyze(frames, **kwargs):
  frames = np.clip(np.round(frames), 0, 255).astype(np.uint8)
  source = ((i / FPS, x) for i, x in enumerate(frames))
  return video_report.analyze(
    video_frames.collect(source, kwargs.get('clip')), **kwargs
  )


def scores(frames, **kwargs):
  return analyze(frames, **kwargs)['scores']


@pytest.fixture(name='drift', scope='module')
def _drift():
  return drifting()


def test_the_curve_knows_frozen_drifting_and_shuffled_videos(drift):
  still = analyze(np.repeat(drift[:1], COUNT, 0))
  curve = still['curves']['all']
  assert curve['seconds'] == [0.125, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 12]
  assert curve['pairs'][0] == COUNT - 1
  np.testing.assert_allclose(curve['similarity'], 1)
  drifts = analyze(drift)
  curve = drifts['curves']['all']
  steps = np.diff(curve['similarity'][:7])
  # Consecutive frames alone can hardly tell it from the still.
  assert curve['similarity'][0] > 0.99 and (steps < 0).all()
  assert drifts['scores']['similarity_far'] < 0.75
  assert drifts['scores']['drift'] > 0.15
  order = np.random.default_rng(0).permutation(COUNT)
  shuffled = analyze(drift[order])['curves']['all']['similarity']
  assert np.ptp(shuffled) < 0.1
  assert abs(np.mean(shuffled) - drifts['scores']['similarity_far']) < 0.1


def test_flicker_and_blur(drift):
  plain = scores(drift)
  wave = 8.0 * (np.arange(COUNT) % 2)[:, None, None, None]
  flickers = scores(drift * 0.9 + wave)
  assert flickers['flicker'] > 7 > 0.5 > plain['flicker']
  assert plain['local_flicker'] < 1
  blurred = [
    Image.fromarray(x.astype(np.uint8)).filter(
      ImageFilter.GaussianBlur(4 * i / COUNT)
    )
    for i, x in enumerate(
      drift + 40 * np.indices((64, 96)).sum(0)[..., None] % 80
    )
  ]
  found = scores(np.stack([np.asarray(x) for x in blurred]).astype(float))
  assert found['sharpness_lost'] > 0.05 > abs(plain['sharpness_lost'])


def test_frozen_stretches_and_duplicates(drift):
  frames = drift.copy()
  frames[20:31] = frames[20]  # 11 frames: 1.375 s.
  found = analyze(frames)
  assert found['frozen'] == [dict(start=2.5, seconds=1.375)]
  assert found['scores']['duplicates'] == pytest.approx(10 / (COUNT - 1), 1e-3)
  assert found['scores']['frozen'] == pytest.approx(11 / COUNT, 1e-3)
  # Half the frame rate is no stop.
  half = analyze(np.repeat(drifting(61, 20), 2, 0)[:COUNT])
  assert half['scores']['duplicates'] == 0.5 and not half['frozen']


def test_stretches_that_were_shown_before(drift):
  frames = drift.copy()
  frames[80:100] = frames[16:36]
  found = analyze(frames)
  assert found['repeats'] == [{'start': 10.0, 'seconds': 2.5, 'from': 2.0}]
  assert not analyze(drift)['repeats']


def test_jumps_at_the_borders_of_segments():
  shown = drifting(COUNT, 12)
  for i in range(1, SEGMENTS):
    # A small step that only the borders have.
    shown[1 + i * 3 * FPS :] = 255 - 0.9 * (255 - shown[1 + i * 3 * FPS :])
  found = analyze(shown)
  assert found['scores']['jumps'] > 0.95
  assert [b['time'] for b in found['borders']] == [3.125, 6.125, 9.125, 12.125]
  assert 0.2 < scores(drifting(COUNT, 12))['jumps'] < 0.8
  # Without the one frame before the first segment.
  assert [b['time'] for b in analyze(shown[1:])['borders']] == [3, 6, 9, 12]


def test_cuts_are_not_flicker_and_not_motion(drift):
  cut = drift.copy()
  cut[40:] = 255 - cut[40:]
  found = analyze(cut)
  assert found['cuts'] == [5.0]
  assert found['scores']['cuts_per_minute'] == pytest.approx(
    60 / (COUNT / FPS), 1e-3
  )
  plain = scores(drift)
  for name in ('change', 'flicker', 'local_flicker'):
    assert found['scores'][name] == pytest.approx(plain[name], rel=0.05)


class FakeCLIP:
  """Embeds a frame by its colour, and a text by the colour it names."""

  colours = dict(red=(1, 0, 0), green=(0, 1, 0), blue=(0, 0, 1))

  def embed(self, frames):
    means = frames.mean((1, 2)) + 1
    return means / np.linalg.norm(means, axis=1, keepdims=True)

  def fits(self, text):
    return len(text) < 30

  def embed_text(self, text):
    assert self.fits(text)
    (name,) = (n for n in self.colours if n in text) or ('red',)
    return np.array(self.colours[name], float)


def test_segments_scenes_and_texts():
  colours = np.array([[200, 20, 20], [200, 20, 20], [20, 200, 20]])
  noise = pictures(3)[[0, 0, 1]] * 0.2
  shown = np.repeat(colours[:, None, None] + noise, 3 * FPS, 0)
  shown = np.concatenate([shown[:1], shown])
  shown[30:] += 2 * (np.arange(43) % 2)[:, None, None, None]
  texts = ['It is red. It is very, very red.', 'A red thing.', 'All is green.']
  found = analyze(shown, texts=texts, scenes=[1, 1, 2], clip=FakeCLIP())
  assert [s['start'] for s in found['segments']] == [0, 3.125, 6.125]
  assert [s['text'] for s in found['segments']] == texts
  assert found['borders'][0]['new_scene'] is False
  assert found['borders'][1]['new_scene'] is True
  assert found['scores']['jumps_between_scenes'] == 1
  curves = found['curves']
  same, other = curves['same scene'], curves['other scene']
  assert min(same['similarity']) > 0.95 > 0.8 > max(other['similarity'])
  assert [s['clip_text_rank'] for s in found['segments']] == [1, 1, 1]
  assert found['scores']['clip_text_right'] == 1
  assert found['scores']['clip_text'] > 90
  assert found['clip_curves']['all']['seconds'][0] == 0.125
  swapped = analyze(shown, texts=texts[::-1], clip=FakeCLIP())
  ranks = [s['clip_text_rank'] for s in swapped['segments']]
  assert ranks[0] > 1 and ranks[2] > 1
  json.dumps(found, allow_nan=False)


def test_long_texts_are_split_at_sentences():
  fits = lambda text: len(text) <= 12
  assert video_report.split_text('One two. Three four. Five.', fits) == [
    'One two.',
    'Three four.',
    'Five.',
  ]
  assert video_report.split_text('a b. c d.', fits) == ['a b. c d.']
  parts = video_report.split_text('one two three four five six.', fits)
  assert parts == ['one two', 'three four', 'five six.']


def test_settings_of_a_file(tmp_path):
  path = tmp_path / 'a.mp4'
  frames = np.stack([videos.picture(i) for i in range(25)])
  made = dict(steps=20, guidance=6.0, seed=3, checkpoint='run/9s')
  video_file.write_video(
    path, frames, 8, settings=made | dict(texts=['<start_scene>A cat.'])
  )
  settings, texts, scenes = video_report.describe(path)
  assert settings['sampling'] == made
  assert (settings['fps'], settings['frames'], settings['codec']) == (
    8,
    25,
    'h264',
  )
  assert (texts, scenes) == (['A cat.'], [])
  # A file of the same name next to it.
  video_file.write_video(path, frames, 8)
  (tmp_path / 'a.json').write_text(json.dumps(made))
  assert video_report.describe(path)[0]['sampling'] == made
  (tmp_path / 'a.json').write_text('[')
  assert video_report.describe(path)[0]['sampling'] == {}
  board = storyboard_lib.Storyboard.parse(
    [dict(text='A.', scene='x'), 'B.', dict(text='C.', scene='y')]
  )
  with pytest.raises(ValueError, match='lasts 3.1 s, but .* 3 segments, 9 s'):
    video_report.describe(path, board)
  with pytest.raises(ValueError, match='is a folder; name a video file'):
    video_report.describe(tmp_path)


def test_one_frame_rate_and_another(tmp_path):
  """A file is measured by its times, and is what its pictures are."""
  shown = drifting(96, 6).round().astype(np.uint8)
  video_file.write_video(tmp_path / 'a.mp4', shown, 8)
  video_file.write_video(tmp_path / 'b.mp4', np.repeat(shown, 2, 0), 16)
  (a, small), (b, _) = (
    video_report.measure(tmp_path / f'{n}.mp4') for n in 'ab'
  )
  for name in ('similarity_second', 'similarity_far', 'sharpness'):
    assert a['scores'][name] == pytest.approx(b['scores'][name], abs=0.01)
  assert len(a['segments']) == len(small) == 4
  assert small[0].shape == (80, 120, 3)
