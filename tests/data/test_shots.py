"""Frames that storyboards and tunings read of real files."""

import numpy as np
from PIL import Image
import pytest

from tests.helpers import configs
from tests.helpers import fake_encoders
from tests.helpers import videos
from ttt_jax import geometry as geometry_lib
from ttt_jax.data import check as check_lib
from ttt_jax.data import shots
from ttt_jax.data import single_video
from ttt_jax.data.store import manifest as manifest_lib

tune_a_video = configs.load('tune_a_video')


def _geometry(segments):
  """The paper's frames, of the size of `videos.picture`."""
  return geometry_lib.Geometry(
    frames=48 * segments + 1, height=videos.HEIGHT, width=videos.WIDTH
  )


def _shown(folder, *segments):
  board = fake_encoders.story('x', *segments)
  geometry = _geometry(len(segments))
  ranges = shots.frame_ranges(board, str(folder), geometry)
  return videos.numbers(shots.read_frames(ranges, geometry, soften=False))


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.ts', 'a.avi'])
def test_three_seconds_are_a_segment(tmp_path, name):
  """Its first frame is one more than 48: the last one is held."""
  videos.write(tmp_path / name, 48, bframes=2 * (name != 'a.avi'))
  assert _shown(tmp_path, ('t', name, 0)) == [*range(48), 47]


@pytest.mark.parametrize('rate', [24, 25, 30])
def test_three_seconds_at_other_rates(tmp_path, rate):
  videos.write(tmp_path / 'a.mp4', 3 * rate, rate=rate)
  shown = _shown(tmp_path, ('t', 'a.mp4', 0))
  assert len(shown) == 49 and shown[-1] == shown[-2] >= 3 * rate - 2


def test_nine_seconds_in_three_files_and_in_one(tmp_path):
  for i in range(3):
    pictures = [videos.picture(n) for n in range(48 * i, 48 * (i + 1))]
    videos.write(tmp_path / f'{i}.mp4', pictures)
  videos.write(tmp_path / 'all.mp4', 144)
  assert _shown(tmp_path, *(('t', f'{i}.mp4', 0) for i in range(3))) == [
    *range(48),
    47,
    *range(48, 144),
  ]
  assert _shown(tmp_path, *(('t', 'all.mp4', 3 * i) for i in range(3))) == [
    *range(144),
    143,
  ]


def test_two_missing_frames_are_an_error(tmp_path):
  videos.write(tmp_path / 'a.mp4', 47)
  with pytest.raises(shots.UnreadableVideoError, match='has 47 frames .* 49'):
    _shown(tmp_path, ('t', 'a.mp4', 0))


def test_a_folder_of_pictures_is_a_video(tmp_path):
  folder = tmp_path / 'frames'
  folder.mkdir()
  for i in range(49):
    Image.fromarray(videos.picture(i)).save(folder / f'{i}.png')
  assert _shown(tmp_path, ('t', 'frames', 0)) == list(range(49))
  prints = []
  for _ in range(2):
    board = fake_encoders.story('x', ('t', 'frames', 0))
    ranges = shots.frame_ranges(board, str(tmp_path), _geometry(1))
    prints.append(shots.fingerprint(ranges, ['t'], False))
    (folder / '0.png').write_bytes((folder / '0.png').read_bytes() + b'x')
  assert prints[0] != prints[1]


def test_a_data_set_says_what_was_done_to_its_videos(tmp_path):
  mirror = (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
  for name, setup in (
    ('plain', None),
    ('mirrored', lambda s: s.set_display_matrix(mirror)),
  ):
    videos.write(tmp_path / f'{name}.mp4', 20, setup=setup)
  boards = [
    fake_encoders.story(n, ('t', f'{n}.mp4', 0), ('t', f'{n}.mp4', 0.5))
    for n in ('plain', 'mirrored')
  ]
  fake_encoders.encode(tmp_path, tmp_path / 'out', boards)
  manifest = manifest_lib.read_manifest(tmp_path / 'out')
  assert manifest.conversions == {'mirrored.mp4': ['mirrored']}
  assert 'conversions' not in manifest.identity()
  assert check_lib.check(tmp_path / 'out').problems == []


def _tuning(path, **data):
  config = tune_a_video.get_config('tests/fixtures/tiny_sd')
  config.video, config.prompt = str(path), 'a cat'
  config.data.update(height=videos.HEIGHT, width=videos.WIDTH, **data)
  return videos.numbers(single_video.read_frames(config))


@pytest.mark.parametrize('stride, needed', [(1, 24), (2, 47), (3, 70)])
@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.ts'])
def test_tuning_needs_exactly_the_frames_that_it_reads(
  tmp_path, name, stride, needed
):
  path = videos.write(tmp_path / name, needed, rate=30)
  expected = list(range(0, needed, stride))
  assert _tuning(path, frames=24, stride=stride) == expected
  path = videos.write(tmp_path / name, needed - 1, rate=30)
  with pytest.raises(ValueError, match=f'need {needed}: set .*data.stride='):
    _tuning(path, frames=24, stride=stride)


def test_tuning_counts_frames_where_the_rate_varies(tmp_path):
  """A recording pauses for five seconds; frames lag at other places."""
  lag = np.random.default_rng(0).integers(0, 15, 30)
  times = [33 * i + int(lag[i]) + 5000 * (i > 12) for i in range(30)]
  for name in ('a.mp4', 'a.mkv'):
    path = videos.write(tmp_path / name, 30, rate=1000, times=times, bframes=2)
    assert _tuning(path, frames=14, stride=2) == list(range(0, 28, 2))
    assert _tuning(path, frames=9, stride=3, start=4) == list(range(4, 30, 3))
