"""The right frames, from any start, in any container.

Frames contain their numbers. Every container that people have is written with
long and short groups of pictures, with and without B-frames.
"""

import contextlib
import pathlib

import av
import numpy as np
from PIL import Image
import pytest

from tests.helpers import videos
from ttt_jax.video import decode
from ttt_jax.video import video_file

SIZE = dict(height=videos.HEIGHT, width=videos.WIDTH)
COUNT = 24
FRAGMENTED = {'movflags': 'frag_keyframe+empty_moov+default_base_moof'}


def shown(path, **kwargs):
  return videos.numbers(
    video_file.read_video(path, **SIZE, soften=False, **kwargs)
  )


def expect_the_right_frames(path, rate=16, count=COUNT, first=0):
  """Reads two frames from every third start, and all frames."""
  for i in range(1, count - 1, 3):
    expected = [first + i, first + i + 1]
    assert shown(path, fps=rate, start=i / rate, frames=2) == expected, i
  last = (count - 1) / rate
  assert shown(path, fps=rate, start=last) == [first + count - 1]
  assert shown(path, fps=rate) == list(range(first, first + count))


@pytest.mark.parametrize('gop, bframes', [(1, 0), (5, 2), (24, 0), (24, 2)])
@pytest.mark.parametrize(
  'name, codec, rate',
  [
    ('a.mp4', 'libx264', 16),
    ('fragmented.mp4', 'libx264', 16),
    ('a.mkv', 'libx264', 16),
    ('a.ts', 'libx264', 16),
    ('a.avi', 'libx264', 16),
    ('a.flv', 'libx264', 16),
    ('a.h264', 'libx264', 16),
    ('a.ts', 'mpeg2video', 25),
    ('a.mpg', 'mpeg2video', 25),
    ('a.avi', 'mpeg4', 16),
  ],
)
def test_every_start(tmp_path, name, codec, rate, gop, bframes):
  fragments = FRAGMENTED if name == 'fragmented.mp4' else {}
  path = videos.write(
    tmp_path / name,
    COUNT,
    codec=codec,
    rate=rate,
    gop=gop,
    bframes=bframes,
    container_options=fragments,
  )
  expect_the_right_frames(path, rate)


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.ts', 'a.hevc'])
def test_open_groups_of_h265(tmp_path, name):
  """Frames before a key frame refer to the previous group."""
  path = videos.write(tmp_path / name, COUNT, codec='libx265', gop=7, bframes=2)
  expect_the_right_frames(path)


@pytest.mark.parametrize(
  'name, codec, options',
  [
    ('a.webm', 'libvpx', {}),
    # Frames that are stored and never shown.
    (
      'a.webm',
      'libvpx',
      {'auto-alt-ref': '1', 'lag-in-frames': '16', 'deadline': 'good'},
    ),
    # No key frame but the first, which every frame refreshes a part of.
    ('a.ts', 'libx264', {'x264-params': 'intra-refresh=1:keyint=12'}),
    ('a.mp4', 'libx264', {'x264-params': 'intra-refresh=1:keyint=12'}),
    ('a.avi', 'mjpeg', {}),
    ('a.mkv', 'ffv1', {}),
  ],
)
def test_other_codecs(tmp_path, name, codec, options):
  pix_fmt = 'yuvj420p' if codec == 'mjpeg' else 'yuv420p'
  path = videos.write(
    tmp_path / name, COUNT, codec=codec, pix_fmt=pix_fmt, options=options
  )
  expect_the_right_frames(path)


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.ts'])
def test_a_stream_that_starts_late_begins_with_its_first_frame(tmp_path, name):
  times = [2000 + round(i * 62.5) for i in range(COUNT)]
  path = videos.write(tmp_path / name, COUNT, times=times, bframes=2)
  expect_the_right_frames(path)


@pytest.mark.parametrize(
  'name, first',
  # Matroska then has frames without a time; an edit list hides them.
  [('a.mkv', 0), ('a.mp4', 8)],
)
def test_negative_times(tmp_path, name, first):
  path = videos.write(
    tmp_path / name,
    COUNT,
    times=[round(i * 62.5) - 500 for i in range(COUNT)],
    bframes=2,
    container_options={'avoid_negative_ts': 'disabled'},
  )
  expect_the_right_frames(path, count=COUNT - first, first=first)


def test_few_frames_per_second(tmp_path):
  path = videos.write(tmp_path / 'a.mp4', COUNT, rate=4, gop=1)
  expect_the_right_frames(path, rate=4)
  # The only frame that is decoded is the last one.
  with pytest.raises(video_file.TooShortError, match='it lasts 6.00 s'):
    shown(path, fps=4, start=23 / 4 + 0.2)


def test_milliseconds_do_not_decide_between_two_frames(tmp_path):
  """Half of all times are in the middle between two frames: the earlier."""
  path = videos.write(tmp_path / 'a.mkv', 96, rate=32)
  assert shown(path, fps=64 / 3, frames=8) == [0, 1, 3, 4, 6, 7, 9, 10]
  path = videos.write(tmp_path / 'b.mkv', 96, rate=24)
  expected = [j * 3 // 2 for j in range(64)]
  assert shown(path, fps=16) == expected
  for j in range(0, 60, 7):
    assert shown(path, start=j / 16, frames=3) == expected[j : j + 3]


def test_a_broadcast_whose_times_begin_anew(tmp_path):
  part = videos.write(tmp_path / 'part.ts', 30, bframes=2).read_bytes()
  path = tmp_path / 'both.ts'
  path.write_bytes(part + part)
  expected = 2 * list(range(30))
  assert shown(path) == expected
  for i in (2, 20, 40):
    assert shown(path, start=i / 16, frames=4) == expected[i : i + 4]


def test_a_broadcast_that_was_joined_late_begins_with_a_key_frame(tmp_path):
  data = videos.write(tmp_path / 'a.ts', 96, bframes=2).read_bytes()
  path = tmp_path / 'late.ts'
  path.write_bytes(data[188 * 40 :])
  found = shown(path)
  assert found[0] > 0 and found[0] % 12 == 0
  assert found == list(range(found[0], 96))
  assert shown(path, start=1, frames=3) == [found[0] + i for i in (16, 17, 18)]


@pytest.mark.parametrize(
  'name, options',
  [
    ('a.ts', {}),
    ('a.h264', {}),
    ('a.flv', {}),
    ('a.mkv', {}),
    ('fast.mp4', {'movflags': 'faststart'}),
    ('fragmented.mp4', FRAGMENTED),
  ],
)
def test_a_file_that_was_cut_off_is_read_up_to_there(tmp_path, name, options):
  path = videos.write(tmp_path / name, 96, container_options=options)
  path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
  found = shown(path)
  assert 30 < len(found) < 96 and found == list(range(len(found)))
  assert abs(video_file.probe(path).frames - len(found)) <= 3
  with pytest.raises(video_file.TooShortError, match='frames at 16 fps') as e:
    shown(path, start=1, frames=90)
  assert e.value.available == len(found) - 16


def test_damage_within_the_range_is_an_error(tmp_path):
  """Damage before, and after the range, is not."""
  path = videos.write(tmp_path / 'a.avi', 40, codec='mjpeg', pix_fmt='yuvj420p')
  data = bytearray(path.read_bytes())
  with av.open(str(path)) as container:
    packets = list(container.demux(video=0))
  begin, size = packets[20].pos + 8, packets[20].size - 16
  data[begin : begin + size] = bytes(size)
  path.write_bytes(data)
  assert shown(path, frames=19) == list(range(19))
  assert shown(path, start=21 / 16, frames=19) == list(range(21, 40))
  with pytest.raises(ValueError, match=r'a\.avi is damaged before 1\.31 s'):
    shown(path)


def test_frames_need_not_be_decoded_from_the_beginning(tmp_path, monkeypatch):
  """A key frame is used if it can be verified."""
  for name in ('a.ts', 'a.flv', 'a.mkv', 'a.mp4'):
    path = videos.write(tmp_path / name, 96, bframes=2)
    times = [t.time for t in decode.frames(path, begin=decode.Fraction(5))]
    assert times == [decode.Fraction(i, 16) for i in range(72, 96)], name

  # An index that lies: whatever is looked for, the last key frame arrives.
  opened = decode._open

  class Container:
    def __init__(self, container):
      self._container = container

    def __getattr__(self, name):
      return getattr(self._container, name)

    def seek(self, target, stream):
      self._container.seek(10**9, stream=stream)

  @contextlib.contextmanager
  def open_lying(path):
    with opened(path) as (container, stream):
      yield Container(container), stream

  monkeypatch.setattr(decode, '_open', open_lying)
  assert next(decode.frames(path, begin=decode.Fraction(5))).time == 0
  assert shown(path, start=2, frames=3) == [32, 33, 34]


def test_folders_of_pictures(tmp_path):
  folder = tmp_path / 'frames'
  folder.mkdir()
  for i in range(12):
    Image.fromarray(videos.picture(i)).save(folder / f'f{i}.png')
  (folder / 'caption.txt').write_text('a cat')
  (folder / '.f3.png').write_text('of another system')
  assert shown(folder) == list(range(12))
  assert shown(folder, fps=8, start=0.5, frames=3) == [4, 5, 6]
  assert videos.numbers(
    video_file.read_every(folder, stride=3, start=1, frames=3, **SIZE)
  ) == [1, 4, 7]
  info = video_file.probe(folder)
  assert (info.frames, info.fps, info.seconds) == (12, 0, 0)
  with pytest.raises(video_file.TooShortError, match='12 frames at 16'):
    shown(folder, frames=13)
  empty = tmp_path / 'empty'
  empty.mkdir()
  with pytest.raises(FileNotFoundError, match='no pictures, for example 0001'):
    shown(empty)
  (folder / 'f5.png').write_text('not a picture')
  with pytest.raises(ValueError, match=r'f5\.png cannot be read as a'):
    shown(folder)


def test_pictures_of_every_kind(tmp_path):
  """Palettes, transparency, 16 bits, and EXIF that says how to turn them."""
  turned = Image.Exif()
  turned[0x0112] = 5  # Mirrored and turned.
  save = {
    'palette': lambda image, path: image.quantize(8).save(path + '.png'),
    'alpha': lambda image, path: image.convert('RGBA').save(path + '.png'),
    'webp': lambda image, path: image.save(path + '.webp'),
    'deep': lambda image, path: Image.fromarray(
      np.asarray(image.convert('L')).astype(np.uint16) * 257
    ).save(path + '.png'),
    'exif': lambda image, path: image.transpose(Image.Transpose.TRANSPOSE).save(
      path + '.jpg', exif=turned, quality=95
    ),
  }
  for name, function in save.items():
    (tmp_path / name).mkdir()
    for i in range(3):
      image = Image.fromarray(videos.picture(5 + i))
      function(image, str(tmp_path / name / str(i)))
    assert shown(tmp_path / name) == [5, 6, 7], name


def test_animated_pictures(tmp_path):
  pictures = [Image.fromarray(videos.picture(i)) for i in range(10)]
  first, rest = pictures[0], pictures[1:]
  for name in ('a.gif', 'a.png'):
    first.save(tmp_path / name, save_all=True, append_images=rest, duration=60)
    expect_the_right_frames(tmp_path / name, rate=100 / 6, count=10)


def test_playlists_do_not_open_other_files(tmp_path):
  other = videos.write(tmp_path / 'other.ts', COUNT)
  for text in (
    f'#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{other}\n#EXT-X-ENDLIST\n',
    f"ffconcat version 1.0\nfile '{other}'\n",
  ):
    path = tmp_path / 'list.mp4'
    path.write_text(text)
    with pytest.raises(ValueError, match='cannot be read as a video'):
      shown(path)


def test_contents_are_counted_and_not_believed(tmp_path):
  """Sound that goes on, no index, no duration, several fragments, no rate."""
  for name, options in {
    'sound.mkv': {},
    'sound.webm': {},
    'live.mkv': {'live': '1'},
    'fragmented.mp4': FRAGMENTED,
    'a.h264': {},
    'a.ts': {},
  }.items():
    path = videos.write(
      tmp_path / name,
      48,
      codec='libvpx' if name.endswith('.webm') else 'libx264',
      seconds_of_sound=5 if name.startswith('sound') else 0,
      container_options=options,
    )
    info = video_file.probe(path)
    assert (info.frames, info.fps) == (48, 16), name
    assert info.seconds == pytest.approx(3, abs=1e-3), name
    assert shown(path) == list(range(48))


def test_cover_art_is_skipped(tmp_path):
  source = videos.write(tmp_path / 'a.mp4', COUNT)
  path = tmp_path / 'cover.mp4'
  cover = np.full((64, 64, 3), 99, np.uint8)
  with av.open(str(path), 'w') as out, av.open(str(source)) as container:
    art = out.add_stream('png', 16)
    art.width, art.height, art.pix_fmt = 64, 64, 'rgb24'
    art.disposition = av.stream.Disposition.attached_pic
    stream = out.add_stream_from_template(container.streams.video[0])
    out.mux(art.encode(av.VideoFrame.from_ndarray(cover, 'rgb24')))
    out.mux(art.encode())
    for packet in container.demux(video=0):
      if packet.dts is not None:
        packet.stream = stream
        out.mux(packet)
  with av.open(str(path)) as container:
    assert len(container.streams.video) == 2
  assert shown(path) == list(range(COUNT))


def test_huge_claims_are_refused_at_once(tmp_path):
  """A GIF of 65,535 x 65,535 pixels would need 17 GB."""
  pictures = [Image.fromarray(videos.picture(i)) for i in range(3)]
  path = pathlib.Path(tmp_path / 'a.gif')
  pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=60)
  data = bytearray(path.read_bytes())
  data[6:10] = b'\xff' * 4
  path.write_bytes(data)
  with pytest.raises(ValueError, match='no frame that can be decoded'):
    shown(path)


def test_a_frame_is_not_held_for_hours(tmp_path):
  times = [0, 60, 120, 4_000_000]
  path = videos.write(tmp_path / 'a.mkv', 4, rate=1000, times=times)
  assert shown(path, frames=5) == [0, 1, 2, 2, 2]
  with pytest.raises(ValueError, match='has no frame for 4000 s after 0.12 s'):
    shown(path)


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.ts', 'a.avi', 'a.gif'])
def test_damaged_bytes_end_in_frames_or_in_one_line(tmp_path, name):
  codec, pix_fmt = (
    ('gif', 'rgb8') if name == 'a.gif' else ('libx264', 'yuv420p')
  )
  path = videos.write(tmp_path / name, 8, codec=codec, pix_fmt=pix_fmt)
  whole = path.read_bytes()
  rng = np.random.default_rng(0)
  for i in range(16):
    data = bytearray(whole)
    if i % 4 == 0:
      del data[rng.integers(len(data)) :]
    elif i % 4 == 1:
      first = rng.integers(min(len(data), 1500))
      data[first : first + 4] = (b'\xff' * 4, bytes(4))[i % 8 == 1]
    else:
      # In the header, or anywhere.
      end = min(len(data), 1500) if i % 4 == 2 else len(data)
      for position in rng.integers(end, size=6):
        data[position] = rng.integers(256)
    path.write_bytes(data)
    for read in (video_file.probe, shown):
      try:
        read(path)
      except ValueError as e:
        assert str(path) in str(e) and '\n' not in str(e)
