"""Frame rates, rotations, damaged files, and writing."""

import fractions
import os
import subprocess
import sys
import textwrap

import av
import numpy as np
from PIL import Image
import pytest

from ttt_jax.video import video_file

SIZE = dict(height=16, width=32)


def make(
  path,
  count,
  rate=16,
  height=32,
  width=64,
  times=None,
  value=lambda i: 3 * i + 10,
):
  """Writes a video of grey frames; frame i has the brightness `value(i)`."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate, options={'crf': '0'})
    stream.height, stream.width, stream.pix_fmt = height, width, 'yuv420p'
    stream.gop_size = 7
    for i in range(count):
      pixels = np.full((height, width, 3), value(i), np.uint8)
      frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
      if times is not None:
        frame.time_base = fractions.Fraction(1, 1000)
        frame.pts = times[i]
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def shown(path, **kwargs):
  """Reads a video; returns the indices of the source frames."""
  frames = video_file.read_video(path, **SIZE, **kwargs)
  assert frames.dtype == np.uint8 and frames.shape[1:] == (16, 32, 3)
  return np.round((frames.mean((1, 2, 3)) - 10) / 3).astype(int).tolist()


def test_equal_rate_gives_every_frame(tmp_path):
  path = make(tmp_path / 'a.mp4', 40)
  assert shown(path) == list(range(40))
  assert shown(path, frames=5) == list(range(5))
  assert shown(path, start=1.0, frames=9) == list(range(16, 25))
  assert shown(path, start=31 / 16) == list(range(31, 40))


@pytest.mark.parametrize('rate', ['25', '30', '50', '12', '30000/1001'])
def test_the_nearest_frame_in_time(tmp_path, rate):
  rate = fractions.Fraction(rate)
  path = make(tmp_path / 'a.mp4', 40, rate)
  nearest = [
    min(range(40), key=lambda i: abs(fractions.Fraction(j, 16) - i / rate))
    for j in range(int(40 / rate * 16))
  ]
  assert shown(path) == nearest
  assert shown(path, start=0.25, frames=len(nearest) - 4) == nearest[4:]


def test_a_start_that_is_not_a_binary_fraction_reaches_the_last_frame(tmp_path):
  path = make(tmp_path / 'a.mp4', 45, 15)
  for k in range(45):
    assert shown(path, fps=15, start=k / 15, frames=45 - k)[-1] == 44


def test_uneven_timestamps(tmp_path):
  times = [0, 40, 300, 320, 340, 600, 700, 760]
  path = make(tmp_path / 'a.mkv', 8, times=times)
  # At 0, 0.1, ...: 0.1 is nearer to 0.04 than to 0.3, 0.5 to 0.6 than 0.34.
  assert shown(path, fps=10, frames=7) == [0, 1, 2, 2, 4, 5, 5]


def test_a_rotated_video_is_turned_upright(tmp_path):
  """Phones store landscape frames and a rotation."""
  path = tmp_path / 'a.mp4'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', 16, options={'crf': '0'})
    stream.height, stream.width, stream.pix_fmt = 32, 64, 'yuv420p'
    stream.set_display_rotation(90)
    for _ in range(4):
      pixels = np.zeros((32, 64, 3), np.uint8)
      pixels[:, 32:] = (
        250  # The right becomes the top after a turn to the left.
      )
      frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  out = video_file.read_video(path, height=64, width=32, soften=False)
  assert out[0, :20].min() > 200 and out[0, -20:].max() < 50


def test_memory_does_not_grow_with_the_file(tmp_path):
  """The file has 300 frames of 150 KB; the result as many of 1.5 KB."""
  path = make(
    tmp_path / 'a.mp4', 300, height=192, width=256, value=lambda i: i % 250
  )
  script = textwrap.dedent(f"""
      import resource
      from ttt_jax.video import video_file
      video_file.read_video({str(path)!r}, height=16, width=32, frames=4)
      before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
      video_file.read_video({str(path)!r}, height=16, width=32)
      after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
      print(after - before)
  """)
  grown = subprocess.run(
    [sys.executable, '-c', script],
    check=True,
    capture_output=True,
    cwd=os.getcwd(),
    env={**os.environ, 'PYTHONPATH': os.getcwd()},
  ).stdout
  assert int(grown) < 20_000  # KB


@pytest.mark.parametrize(
  'kwargs, message',
  [
    (dict(height=17, width=32), 'height is 17; .* multiple of 16.* 16'),
    (dict(height=16, width=90), 'width is 90; .* 96'),
    (dict(height=0, width=32), 'height is 0'),
    (dict(SIZE, fps=0), 'fps is 0'),
    (dict(SIZE, fps=float('nan')), 'fps is nan'),
    (dict(SIZE, fps=1e-9), 'fps is 1e-09'),
    (dict(SIZE, fps=1e300), r'fps is 1e\+300; .* at most 1000'),
    (dict(SIZE, start=1e300), 'beyond the end'),
    (dict(SIZE, start=-1), 'start is -1'),
    (dict(SIZE, start=float('nan')), 'start is nan'),
    (dict(SIZE, frames=0), 'frames is 0'),
    (dict(SIZE, start=5.0), 'start is 5 s, beyond the end .* 2.50 s'),
    (dict(SIZE, frames=41), 'has 40 frames at 16 fps from 0 s on; 41'),
    (dict(SIZE, frames=40, start=1.0), 'has 24 frames .* 1 s on; 40'),
    (dict(SIZE, fps=60), 'has 16 frames per second; at least 30'),
  ],
)
def test_invalid_arguments(tmp_path, kwargs, message):
  path = make(tmp_path / 'a.mp4', 40)
  with pytest.raises(ValueError, match=message) as e:
    video_file.read_video(path, **kwargs)
  assert '\n' not in str(e.value)


def test_invalid_files(tmp_path):
  def refused(path, message, error=ValueError):
    with pytest.raises(error, match=message) as e:
      video_file.read_video(path, **SIZE)
    assert '\n' not in str(e.value) and path.name in str(e.value)

  refused(tmp_path / 'no.mp4', 'there is no video', FileNotFoundError)
  refused(tmp_path, 'there is no video', FileNotFoundError)
  text = tmp_path / 'text.mp4'
  text.write_text('no video at all')
  refused(text, 'cannot be read as a video')
  (tmp_path / 'empty.mp4').touch()
  refused(tmp_path / 'empty.mp4', 'cannot be read as a video')
  refused(make(tmp_path / 'one.mp4', 1), 'one frame only')
  whole = make(tmp_path / 'whole.mp4', 30).read_bytes()
  cut = tmp_path / 'cut.mp4'
  cut.write_bytes(whole[: len(whole) // 2])
  refused(cut, 'cannot be read as a video')

  sound = tmp_path / 'sound.mp4'
  with av.open(str(sound), 'w') as container:
    stream = container.add_stream('aac', 16000)
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 1024), np.float32), 'fltp', 'mono'
    )
    frame.sample_rate = 16000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  refused(sound, 'has no video stream')


def test_frames_by_number(tmp_path):
  path = make(tmp_path / 'a.mp4', 10)

  def numbers(**kwargs):
    out = video_file.read_every(path, **SIZE, **kwargs)
    return np.round((out.mean((1, 2, 3)) - 10) / 3).astype(int).tolist()

  assert numbers(stride=1) == list(range(10))
  assert numbers(stride=3, start=1) == [1, 4, 7]
  assert numbers(stride=4, frames=3) == [0, 4, 8]
  assert numbers(stride=1, frames=1) == [0]
  for kwargs, message in (
    (dict(stride=0), 'stride is 0'),
    (dict(stride=1, start=-1), 'start is -1'),
    (dict(stride=1, frames=0), 'frames is 0'),
    (dict(stride=5, frames=3), 'has 10 frames; 11 are needed'),
    (dict(stride=1, start=10), 'has 10 frames; 11 are needed'),
  ):
    with pytest.raises(ValueError, match=message):
      numbers(**kwargs)


def test_one_missing_frame_is_held(tmp_path):
  path = make(tmp_path / 'a.mp4', 10)
  out = video_file.read_held(path, frames=11, **SIZE)
  np.testing.assert_array_equal(out[10], out[9])
  assert len(out) == 11 and not np.array_equal(out[9], out[8])
  with pytest.raises(video_file.TooShortError, match='10 frames .* 12'):
    video_file.read_held(path, frames=12, **SIZE)


def test_a_picture_is_not_a_video(tmp_path):
  Image.new('RGB', (64, 32)).save(tmp_path / 'a.png')
  with pytest.raises(ValueError, match='one frame only'):
    video_file.read_video(tmp_path / 'a.png', **SIZE)


def test_an_odd_sized_source_is_read(tmp_path):
  pictures = [Image.new('RGB', (63, 31), (25 * i, 0, 0)) for i in range(10)]
  pictures[0].save(
    tmp_path / 'a.gif',
    save_all=True,
    append_images=pictures[1:],
    duration=50,
  )
  assert video_file.read_video(tmp_path / 'a.gif', **SIZE).shape[1:] == (
    16,
    32,
    3,
  )


def test_write_then_read(tmp_path):
  path = tmp_path / 'a.mp4'
  y, x = np.mgrid[:48, :64]
  frames = np.stack(
    [
      np.stack([4 * x, 5 * y, 0 * x + 9 * i], -1).clip(0, 255)
      for i in range(20)
    ]
  ).astype(np.uint8)
  video_file.write_video(path, frames, fps=16)
  info = video_file.probe(path)
  assert (info.width, info.height, info.fps, info.frames) == (64, 48, 16, 20)
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    assert stream.codec_context.name == 'h264'
    assert stream.codec_context.pix_fmt == 'yuv420p'
  back = video_file.read_video(path, height=48, width=64, soften=False)
  error = (back.astype(float) - frames) ** 2
  assert 10 * np.log10(255**2 / error.mean()) > 35
  assert os.listdir(tmp_path) == ['a.mp4']


def test_lossless(tmp_path):
  path = tmp_path / 'a.mp4'
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
  video_file.write_video(path, frames, lossless=True)
  back = video_file.read_video(path, height=32, width=48, soften=False)
  np.testing.assert_array_equal(back, frames)


@pytest.mark.parametrize(
  'frames, name, error, message',
  [
    (
      np.zeros((2, 15, 16, 3), np.uint8),
      'a.mp4',
      ValueError,
      '15x16 .* even sizes, for example 16x16',
    ),
    (np.zeros((2, 16, 16, 3), np.float32), 'a.mp4', ValueError, 'float32'),
    (np.zeros((16, 16, 3), np.uint8), 'a.mp4', ValueError, r'\[16, 16, 3\]'),
    (np.zeros((0, 16, 16, 3), np.uint8), 'a.mp4', ValueError, '0 frames'),
    (np.zeros((2, 16, 16, 3), np.uint8), 'a.avi', ValueError, 'end in .mp4'),
    (
      np.zeros((2, 16, 16, 3), np.uint8),
      'no/a.mp4',
      FileNotFoundError,
      'there is no folder',
    ),
  ],
)
def test_invalid_frames_and_paths_are_not_written(
  tmp_path, frames, name, error, message
):
  with pytest.raises(error, match=message):
    video_file.write_video(tmp_path / name, frames)
  assert not os.listdir(tmp_path)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'a.mp4'
  path.write_text('old')

  def interrupted(part, *args):
    part.write_text('half')
    raise KeyboardInterrupt

  monkeypatch.setattr(video_file, '_encode', interrupted)
  with pytest.raises(KeyboardInterrupt):
    video_file.write_video(path, np.zeros((2, 16, 16, 3), np.uint8))
  assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a.mp4']


def test_a_full_disk_leaves_nothing(tmp_path):
  """A limit on the size of files acts as the full disk."""
  script = textwrap.dedent(f"""
      import resource, signal
      import numpy as np
      from ttt_jax.video import video_file
      signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
      resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
      frames = np.random.default_rng(0).integers(0, 255, (30, 64, 96, 3))
      try:
        path = {str(tmp_path / 'a.mp4')!r}
        video_file.write_video(path, frames.astype('uint8'))
      except ValueError as e:
        print(e)
  """)
  done = subprocess.run(
    [sys.executable, '-c', script],
    check=False,
    capture_output=True,
    text=True,
    env={**os.environ, 'PYTHONPATH': os.getcwd()},
  )
  assert 'could not write' in done.stdout, done.stderr
  assert done.stdout.count('\n') == 1
  assert not os.listdir(tmp_path)
