"""Results are arrays that can be saved, and that notebooks show."""

import base64
import io
import pickle
import re

import numpy as np
from PIL import Image
import pytest

from ttt_jax.video import video_array
from ttt_jax.video import video_file


@pytest.fixture(name='frames')
def frames_fixture():
  return np.random.default_rng(0).integers(0, 256, (5, 16, 32, 3), np.uint8)


def _media(page, kind):
  (found,) = re.findall(rf'src="data:{kind};base64,([^"]+)"', page)
  return base64.b64decode(found)


def test_slices_are_videos_and_results_are_plain(frames):
  video = video_array.Video(frames, 8)
  assert isinstance(video, np.ndarray) and video.seconds == 5 / 8
  assert type(video[1:3]) is video_array.Video and video[1:3].fps == 8
  for result in (video / 255, video.mean(axis=0), np.stack([video, video])):
    assert type(result) is np.ndarray
  assert isinstance(video.mean(), float)
  assert repr(video) == '<5 frames, 0.6 s at 8 fps, 32x16 pixels>'
  assert repr(video[None]).startswith('<1 video of 5 frames')
  assert repr(video[0, 0, 0]).startswith('Video([')
  again = pickle.loads(pickle.dumps(video))
  assert again.fps == 8
  np.testing.assert_array_equal(again, frames)


def test_saves_one_video_or_several_side_by_side(frames, tmp_path):
  video = video_array.Video(frames, 8)
  video.save(tmp_path / 'one.mp4')
  info = video_file.probe(tmp_path / 'one.mp4')
  assert (info.frames, info.width, info.fps) == (5, 32, 8)
  edits = video_array.Video(np.stack([frames, frames[::-1]]), 8)
  edits.save(tmp_path / 'two.mp4')
  assert video_file.probe(tmp_path / 'two.mp4').width == 64
  edits[1].save(tmp_path / 'second.gif')
  with Image.open(tmp_path / 'second.gif') as picture:
    assert picture.n_frames == 5


def test_a_page_shows_the_film(frames, tmp_path):
  page = video_array.Video(frames, 8)._repr_html_()
  (tmp_path / 'page.mp4').write_bytes(_media(page, 'video/mp4'))
  assert video_file.probe(tmp_path / 'page.mp4').frames == 5
  assert '5 frames, 0.6 s at 8 fps, 32x16 pixels' in page


def test_a_page_shows_a_contact_sheet_of_a_long_film(frames, monkeypatch):
  monkeypatch.setattr(video_array, '_MAX_BYTES', 100)
  page = video_array.Video(frames, 8)._repr_html_()
  with Image.open(io.BytesIO(_media(page, 'image/jpeg'))) as sheet:
    assert sheet.width > 2 * 32
  assert '<video' not in page and '.save(' in page
  # Sizes that H.264 does not have are shown, too.
  odd = video_array.Video(frames, 8)[:, :15]
  assert 'image/jpeg' in odd._repr_html_()


def test_what_is_no_video_anymore_says_so(frames, tmp_path):
  video = video_array.Video(frames, 8)
  assert video[0]._repr_html_() is None
  with pytest.raises(ValueError, match=r'uint8 \[16, 32, 3\].*no video'):
    video[0].save(tmp_path / 'x.mp4')
  with pytest.raises(ValueError, match='must end in .mp4 or .gif'):
    video.save(tmp_path / 'x.mov')
  with pytest.raises(ValueError, match='fps is 0'):
    video_array.Video(frames, 0)
  with pytest.raises(ValueError, match=r'float64 \[2, 2\]'):
    video_array.Video(np.zeros((2, 2)), 8)
  assert not list(tmp_path.iterdir())
