"""Frames as a player shows them: orientation, shape, colours, fields."""

import fractions

import av
import numpy as np
import pytest

from tests.helpers import videos
from ttt_jax.video import picture
from ttt_jax.video import video_file

# In the corners of a frame.
RED, GREEN, BLUE, YELLOW = (
  (240, 20, 20),
  (20, 240, 20),
  (20, 20, 240),
  (230,) * 2 + (20,),
)
ASPECT = fractions.Fraction(2)
COLOURS = (
  (128, 128, 128), (255, 255, 255), (0, 0, 0), (200, 100, 50),
  (30, 60, 200), (60, 180, 90), (240, 220, 40), (90, 20, 110),
)  # fmt: skip


def corners() -> np.ndarray:
  """Returns uint8 [32, 64, 3] with four colours."""
  colours = np.array([[RED, GREEN], [BLUE, YELLOW]], np.uint8)
  return colours.repeat(16, 0).repeat(32, 1)


def corners_of(frame) -> np.ndarray:
  """Returns int [2, 2, 3]."""
  return frame[[[4, 4], [-5, -5]], [[4, -5], [4, -5]]].astype(int)


def read(path, height, width, **kwargs):
  return video_file.read_video(
    path, height=height, width=width, soften=False, **kwargs
  )


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv'])
@pytest.mark.parametrize(
  'matrix, expected, note',
  [
    # A stored (x, y) is shown at (a x + c y, b x + d y); (a, b, c, d).
    ((1, 0, 0, 1), [[RED, GREEN], [BLUE, YELLOW]], ''),
    ((0, 1, -1, 0), [[BLUE, RED], [YELLOW, GREEN]], 'turned by 270 degrees'),
    ((-1, 0, 0, -1), [[YELLOW, BLUE], [GREEN, RED]], 'turned by 180 degrees'),
    ((0, -1, 1, 0), [[GREEN, YELLOW], [RED, BLUE]], 'turned by 90 degrees'),
    ((-1, 0, 0, 1), [[GREEN, RED], [YELLOW, BLUE]], 'mirrored'),
    ((1, 0, 0, -1), [[BLUE, YELLOW], [RED, GREEN]], 'mirrored'),
    ((0, 1, 1, 0), [[RED, BLUE], [GREEN, YELLOW]], 'mirrored and turned'),
    ((0, -1, -1, 0), [[YELLOW, GREEN], [BLUE, RED]], 'mirrored and turned'),
  ],
)
def test_display_matrix(tmp_path, name, matrix, expected, note):
  a, b, c, d = (65536 * x for x in matrix)
  path = videos.write(
    tmp_path / name,
    [corners()] * 3,
    pix_fmt='yuv444p',
    setup=lambda s: s.set_display_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30)),
  )
  info = video_file.probe(path)
  assert {info.height, info.width} == {32, 64}
  found = corners_of(read(path, info.height, info.width)[0])
  assert np.abs(found - np.array(expected)).max() < 30
  assert ', '.join(info.conversions) == note


def test_the_rotation_alone_is_used_if_pyav_cannot_list_the_metadata():
  class Frame:
    rotation = 90

    @property
    def side_data(self):
      raise ValueError('99 is not a valid Type')

  filters, notes = picture._orientation(Frame())
  assert notes == ['turned by 90 degrees']
  assert filters == [('transpose', 'cclock_flip'), ('vflip', '')]


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.ts'])
def test_pixels_that_are_not_square(tmp_path, name):
  path = videos.write(
    tmp_path / name,
    [corners()] * 3,
    setup=lambda s: setattr(s.codec_context, 'sample_aspect_ratio', ASPECT),
  )
  info = video_file.probe(path)
  assert (info.height, info.width) == (32, 128)
  assert info.conversions == ('stretched to square pixels from 2:1',)
  found = corners_of(read(path, 32, 128)[0])
  assert np.abs(found - corners_of(corners())).max() < 30


@pytest.mark.parametrize(
  'element, expected',
  [
    (b'\x54\xcc', [[GREEN, GREEN], [YELLOW, YELLOW]]),  # From the left.
    (b'\x54\xaa', [[RED, GREEN], [RED, GREEN]]),  # From the bottom.
  ],
)
def test_cropping_of_the_container(tmp_path, element, expected):
  """One element of Matroska is replaced by PixelCrop of half the frame."""
  path = videos.write(
    tmp_path / 'a.mkv',
    [corners()] * 3,
    setup=lambda s: setattr(s.codec_context, 'sample_aspect_ratio', ASPECT),
  )
  data = path.read_bytes()
  display_unit = b'\x54\xb2\x81\x04'
  assert data.count(display_unit) == 1
  cropped = 32 if element == b'\x54\xcc' else 16
  path.write_bytes(
    data.replace(display_unit, element + b'\x81' + bytes([cropped]))
  )
  info = video_file.probe(path)
  assert info.conversions[0] == 'cropped'
  found = corners_of(read(path, 32, 64)[0])
  assert np.abs(found - np.array(expected)).max() < 30


def yuv_frame(coded, matrix, full, bits, transfer, primaries):
  """Returns a frame of columns of 16 pixels with the coded RGB in [0, 1]."""
  red, blue = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}.get(
    matrix, (0.299, 0.114)
  )
  weights = np.array([red, 1 - red - blue, blue])
  luma = np.asarray(coded) @ weights
  chroma = [
    (np.asarray(coded)[:, i] - luma) / (2 * (1 - weights[i])) for i in (2, 0)
  ]
  unit, top = 1 << (bits - 8), (1 << bits) - 1
  dtype = np.uint8 if bits == 8 else np.uint16
  pix_fmt = 'yuv444p' if bits == 8 else f'yuv444p{bits}le'
  frame = av.VideoFrame(16 * len(luma), 32, pix_fmt)
  for plane, values in zip(frame.planes, (luma, *chroma)):
    is_luma = values is luma
    if full:
      values = values * top + (0 if is_luma else 128 * unit)
    else:
      values = unit * (219 * values + 16 if is_luma else 224 * values + 128)
    rows = np.zeros((32, plane.line_size // dtype().itemsize), dtype)
    rows[:, : frame.width] = np.clip(np.round(values), 0, top).repeat(16)
    plane.update(rows.tobytes())
  frame.colorspace, frame.color_range = matrix, 2 if full else 1
  frame.color_trc, frame.color_primaries = transfer, primaries
  return frame


def colours_read(path, frame, codec, pix_fmt, options):
  def setup(stream):
    for name in ('colorspace', 'color_range', 'color_trc', 'color_primaries'):
      setattr(stream.codec_context, name, getattr(frame, name))

  videos.write(
    path, [frame] * 2, codec=codec, pix_fmt=pix_fmt, setup=setup,
    options=options, times=[0, 63],
  )  # fmt: skip
  out = read(path, 32, frame.width, frames=1)
  return out[0, 16, 8::16].astype(int)


@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize('matrix', [1, 5, 6])  # BT.709, BT.601 (625, 525).
@pytest.mark.parametrize('codec', ['libx264', 'ffv1'])
def test_matrices_and_ranges(tmp_path, codec, matrix, full):
  frame = yuv_frame(np.array(COLOURS) / 255, matrix, full, 8, 1, 1)
  found = colours_read(
    tmp_path / 'a.mkv', frame, codec, 'yuv444p', {'crf': '0'}
  )
  assert np.abs(found - COLOURS).max() <= 3


TO_BT2020 = np.array(
  [
    [0.627404, 0.329283, 0.043313],
    [0.069097, 0.919540, 0.011362],
    [0.016391, 0.088013, 0.895595],
  ]
)


def pq(light):
  """The inverse EOTF of SMPTE ST 2084; 1 is 203 cd/m^2."""
  power = (light * 203 / 10_000) ** 0.1593017578125
  return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(light):
  """The inverse OOTF and OETF of BT.2100 for a screen of 1000 cd/m^2."""
  light = light * 203 / 1000
  luminance = light @ np.array([0.2627, 0.6780, 0.0593])
  scene = light * np.maximum(luminance, 1e-9)[:, None] ** (1 / 1.2 - 1)
  a, b, c = 0.17883277, 0.28466892, 0.55991073
  return np.where(
    scene <= 1 / 12,
    np.sqrt(3 * scene),
    a * np.log(np.maximum(12 * scene - b, 1e-9)) + c,
  )


@pytest.mark.parametrize(
  'transfer, encode, tolerance',
  [(14, lambda light: light ** (1 / 2.4), 4), (16, pq, 8), (18, hlg, 8)],
)
@pytest.mark.parametrize('name', ['a.mkv', 'a.mp4'])
def test_hdr_and_wide_colours(tmp_path, name, transfer, encode, tolerance):
  """Colours of SDR that a broadcaster placed into BT.2020 come back."""
  light = (np.array(COLOURS) / 255) ** 2.4 @ TO_BT2020.T
  frame = yuv_frame(encode(light), 9, False, 10, transfer, 9)
  codec = 'ffv1' if name == 'a.mkv' else 'libx265'
  path = tmp_path / name
  found = colours_read(path, frame, codec, 'yuv444p10le', {'crf': '0'})
  assert np.abs(found - COLOURS).max() <= tolerance
  notes = ['converted from BT.2020 to BT.709 colours']
  if transfer != 14:
    kind = 'PQ' if transfer == 16 else 'HLG'
    notes.insert(0, f'tone-mapped from HDR ({kind}) to SDR')
  assert video_file.probe(path).conversions == tuple(notes)


def test_highlights_are_compressed_and_keep_their_order():
  light = np.array([0.5, 0.9, 1, 1.5, 2, 4])[:, None].repeat(3, 1)
  out = picture.to_sdr(pq(light), 16, ())[:, 0].astype(int)
  assert out[2] > 240 and out[-1] == 255
  assert (np.diff(out) >= 0).all() and (np.diff(out[:4]) > 0).all()
  # Below the highlights nothing is compressed.
  assert out[0] == round(255 * 0.5 ** (1 / 2.4))


@pytest.mark.parametrize(
  'name, codec, options',
  [
    ('a.ts', 'mpeg2video', {'flags': '+ilme+ildct'}),
    ('a.mp4', 'libx264', {'x264-params': 'tff=1'}),
    ('a.mkv', 'libx264', {'x264-params': 'bff=1'}),
  ],
)
def test_interlaced_frames_have_no_combs(tmp_path, name, codec, options):
  """A bright bar moves; the fields of a frame show it at two times."""
  is_bottom_first = 'bff' in str(options)

  def field(time):
    out = np.full((64, 128, 3), 40, np.uint8)
    out[:, 4 * time : 4 * time + 32] = 220
    return out

  frames = []
  for i in range(10):
    frame = field(2 * i + is_bottom_first)
    frame[1::2] = field(2 * i + 1 - is_bottom_first)[1::2]
    frames.append(frame)
  path = videos.write(
    tmp_path / name, frames, codec=codec, rate=25, options=options
  )
  out = read(path, 64, 128, fps=25).astype(float).mean(3)
  assert len(out) == 10
  assert video_file.probe(path).conversions == ('deinterlaced',)

  def combs(frames):
    middle = (frames[:, :-2] + frames[:, 2:]) / 2
    return np.abs(frames[:, 1:-1] - middle).mean()

  assert combs(np.array(frames, float).mean(3)) > 5 > 4 * combs(out)
  # The bar is where it was, also after a seek.
  for i, frame in enumerate(out):
    assert abs(np.argmax(frame[32] > 130) - 8 * i) <= 5
  later = read(path, 64, 128, fps=25, start=5 / 25, frames=3)
  assert np.abs(later.astype(float).mean(3) - out[5:8]).mean() < 2


def test_plain_frames_are_as_ffmpeg_converts_them(tmp_path):
  """No filter changes a picture that needs none."""
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (3, 32, 64, 3)).astype(np.uint8)
  path = videos.write(tmp_path / 'a.mp4', list(frames))
  with av.open(str(path)) as container:
    expected = [
      frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)
    ]
  np.testing.assert_array_equal(read(path, 32, 64), expected)
  assert video_file.probe(path).conversions == ()


def test_a_matrix_that_cannot_be_converted_is_one_line(tmp_path):
  frame = yuv_frame(np.array(COLOURS) / 255, 14, False, 8, 1, 1)  # ICtCp.
  with pytest.raises(ValueError, match='cannot be shown .*matrix 14') as e:
    colours_read(tmp_path / 'a.mkv', frame, 'ffv1', 'yuv444p', {})
  assert '\n' not in str(e.value)
