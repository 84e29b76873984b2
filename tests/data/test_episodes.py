"""Annotated videos to clips: crops, boundaries, and unused scenes."""

import dataclasses
import json

import av
import numpy as np
import pytest

from tests.helpers.fake_encoders import encode
from tests.helpers.fake_encoders import GEOMETRY
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import episodes
from ttt_jax.data import shots
from ttt_jax.video import video_file

# A segment has 8 frames, half a second; a clip two segments.


def write(tmp_path, value):
  path = tmp_path / 'captions.json'
  path.write_text(json.dumps(value))
  return path


def read(tmp_path, videos, value, stride=0, **geometry):
  return episodes.read_clips(
    write(tmp_path, value),
    str(videos),
    dataclasses.replace(GEOMETRY, **geometry),
    stride,
  )


def frames(clip, videos):
  """Returns the indices of the frames that a clip shows."""
  parts = shots.frame_ranges(clip, str(videos), GEOMETRY)
  return shots.read_frames(parts, GEOMETRY, True)[:, 0, 0, 0].tolist()


def scene(start, end, *texts, **more):
  return {'start': start / 16, 'end': end / 16, 'texts': list(texts), **more}


def episode(*scenes, **more):
  return [{'name': 'ep', 'video': 'a.mp4', 'scenes': list(scenes), **more}]


def test_scenes_are_cropped_around_their_middle(videos, tmp_path):
  # 21 frames hold two segments and a frame: 17, two off at either end.
  (clip,) = read(tmp_path, videos, episode(scene(10, 31, 'a', 'b'))).clips
  assert frames(clip, videos) == list(range(12, 29))
  assert clip.name == 'ep' and clip.prompts() == ['a', 'b']
  # 17 frames: all of them. 16: the last one is repeated.
  (clip,) = read(tmp_path, videos, episode(scene(10, 27, 'a', 'b'))).clips
  assert frames(clip, videos) == list(range(10, 27))
  (clip,) = read(tmp_path, videos, episode(scene(10, 26, 'a', 'b'))).clips
  assert frames(clip, videos) == [*range(10, 26), 25]


def test_scenes_follow_each_other(videos, tmp_path):
  value = episode(
    scene(0, 8, 'a'),
    scene(8, 17, 'b'),
    scene(4, 12, 'c', video='b.mp4'),
    scene(12, 20, 'd', video='b.mp4'),
    scene(20, 28, 'e'),
  )
  clip_set = read(tmp_path, videos, value)
  one, two = clip_set.clips
  assert (one.name, two.name) == ('ep@0s', 'ep@1s')
  assert one.prompts() == ['a<end_scene>', '<start_scene>b']
  # One frame more at the beginning of a clip, none from the next scene.
  assert frames(one, videos) == [*range(8), 7, *range(8, 16)]
  assert frames(two, videos) == [*range(104, 112), 111, *range(112, 120)]
  assert (clip_set.segments, clip_set.unused) == (5, 1)
  assert clip_set.summary() == [
    '5 segments make 2 clips',
    '1 segment is in no clip',
  ]


def test_clips_of_one_scene_are_continuous(videos, tmp_path):
  value = episode(scene(0, 40, *'abcde'))
  one, two = read(tmp_path, videos, value).clips
  assert frames(one, videos) == list(range(17))
  assert frames(two, videos) == list(range(16, 33))
  assert one.prompts() == ['a', 'b']


def test_clips_may_overlap(videos, tmp_path):
  value = episode(scene(0, 40, *'abcde'))
  clip_set = read(tmp_path, videos, value, stride=1)
  assert [c.prompts() for c in clip_set.clips] == [
    ['a', 'b'],
    ['b', 'c'],
    ['c', 'd'],
    ['d', 'e'],
  ]
  assert [c.name for c in clip_set.clips] == [
    'ep@0s',
    'ep@0.5s',
    'ep@1s',
    'ep@1.5s',
  ]
  assert clip_set.unused == 0
  assert read(tmp_path, videos, value, stride=3).unused == 1
  assert read(tmp_path, videos, value, stride=2).unused == 1
  with pytest.raises(ValueError, match='stride of -1'):
    read(tmp_path, videos, value, stride=-1)


def test_short_scenes_are_extended_or_left_out(videos, tmp_path):
  # Two thirds of a segment, 6 of 8 frames, are enough; 5 are not.
  value = episode(scene(0, 6, 'a'), scene(20, 25, 'b'), scene(30, 38, 'c'))
  clip_set = read(tmp_path, videos, value)
  (clip,) = clip_set.clips
  assert frames(clip, videos) == [*range(6), 5, 5, 5, *range(30, 38)]
  assert clip_set.too_short == ('a.mp4 from 1.25 s',)
  # Also after a full segment: 14 frames of 16, but not 13.
  (clip,) = read(tmp_path, videos, episode(scene(0, 14, 'a', 'b'))).clips
  assert frames(clip, videos) == [*range(14), 13, 13, 13]
  with pytest.raises(ValueError, match='makes 1 segment .* has 2 texts'):
    read(tmp_path, videos, episode(scene(0, 13, 'a', 'b')))
  assert '1 scene is too short' in clip_set.summary()[-1]


def test_after_a_cut_a_shot_continues_without_a_gap(videos, tmp_path):
  del tmp_path
  board = storyboard_lib.Storyboard(
    'x',
    tuple(
      storyboard_lib.Segment('t', video=name, start=start)
      for name, start in (('b.mp4', 0.0), ('a.mp4', 0.5), ('a.mp4', 1.0))
    ),
  )
  geometry = dataclasses.replace(GEOMETRY, frames=25)
  parts = shots.frame_ranges(board, str(videos), geometry)
  shown = shots.read_frames(parts, geometry, True)[:, 0, 0, 0].tolist()
  assert shown == [*range(100, 109), *range(8, 24)]


def test_a_long_storyboard_is_split_and_a_short_one_left_out(videos, tmp_path):
  def board(name, count):
    return {
      'name': name,
      'segments': [
        {'text': f'{name}{i}', 'video': 'a.mp4', 'start': i / 2, 'scene': i}
        for i in range(count)
      ],
    }

  clip_set = read(
    tmp_path, videos, [board('x', 5), board('y', 1), board('z', 2)]
  )
  assert [c.name for c in clip_set.clips] == ['x@0s', 'x@1s', 'z']
  assert clip_set.clips[1].prompts() == ['x2<end_scene>', '<start_scene>x3']
  assert (clip_set.segments, clip_set.unused) == (8, 2)


@pytest.mark.parametrize(
  'value, message',
  [
    (
      episode(scene(0, 20, 'a')),
      'ep: a.mp4 from 0 to 1.25 s makes 2 segments of 0.5 s, but has 1 text',
    ),
    (episode(scene(0, 20, 'a', 'b', 'c')), 'makes 2 .*, but has 3 texts'),
    (episode(*[scene(0, 20, 'a')] * 5), '5 scenes do not fit.*; ...'),
    (
      episode(scene(0, 8, 'a')),
      r"no clip of 2 segments \(1 s\): the longest, 'ep', has 1 segment; set"
      ' config.data.seconds to .* example 0.5',
    ),
    (episode(scene(0, 3, 'a')), '1 scene is too short;'),
    ([{'name': 'x', 'segments': ['a']}], "longest, 'x', has 1 segment;"),
    (episode(scene(0, 8, ' ')), 'text 1 of scene 1 of entry 1 is empty'),
  ],
)
def test_captions_that_do_not_fit(videos, tmp_path, value, message):
  with pytest.raises(ValueError, match=message) as e:
    read(tmp_path, videos, value)
  assert '\n' not in str(e.value) and 'captions.json' in str(e.value)


def test_a_missing_video_is_named(videos, tmp_path):
  value = [{'mp4': 'no.mp4', 'text_0': 'a'}]
  with pytest.raises(FileNotFoundError, match='no.mp4'):
    read(tmp_path, videos, value)


def test_real_files_in_the_papers_forms(tmp_path):
  """Lengths come from the files; damaged ones are left out later."""
  (tmp_path / 'ep').mkdir()
  rng = np.random.default_rng(0)
  for i, count in enumerate((17, 16, 21, 9, 5)):
    pixels = rng.integers(0, 255, (count, 16, 32, 3)).astype(np.uint8)
    video_file.write_video(tmp_path / 'ep' / f'{i}.mp4', pixels)
  complete = (tmp_path / 'ep' / '0.mp4').read_bytes()
  (tmp_path / 'ep' / '5.mp4').write_bytes(complete[: len(complete) // 2])
  texts = {'text_0': 'a', 'text_1': 'b'}
  value = [{'mp4': f'ep/{i}.mp4', **texts} for i in (0, 1, 2, 3, 5)]
  clip_set = read(tmp_path, tmp_path, value)
  starts = [clip.segments[0].start for clip in clip_set.clips]
  assert starts == [0, 0, 2 / 16, 0, 0]
  manifest = encode(tmp_path, tmp_path / 'out', clip_set.clips)
  assert [c['name'] for c in manifest.clips] == ['ep/0', 'ep/1', 'ep/2']
  reasons = {c['name']: c['reason'] for c in manifest.corrupt}
  assert set(reasons) == {'ep/3', 'ep/5'}
  assert 'beyond the end' in reasons['ep/3'] and 'ep/3.mp4' in reasons['ep/3']
  with pytest.raises(ValueError, match='makes 2 .* has 1 text'):
    read(tmp_path, tmp_path, [{'mp4': 'ep/2.mp4', 'text_0': 'a'}])
  # One file per segment: 9 frames are one, 5 are too few.
  value = [
    {'mp4': f'ep/{i}.mp4', 'text': f't{i}', 'scene_start': True}
    for i in (4, 3, 3)
  ]
  clip_set = read(tmp_path, tmp_path, value)
  assert clip_set.too_short == ('ep/4.mp4 from 0 s',)
  assert [c.prompts() for c in clip_set.clips] == [
    ['t3<end_scene>', '<start_scene>t3']
  ]


def test_a_file_without_a_duration(tmp_path):
  """The duration is that of its frames."""
  pixels = np.full((20, 16, 32, 3), 99, np.uint8)
  video_file.write_video(tmp_path / 'a.mp4', pixels)
  with (
    av.open(str(tmp_path / 'a.mp4')) as source,
    av.open(str(tmp_path / 'raw.h264'), 'w') as out,
  ):
    stream = out.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(source.streams.video[0]):
      if packet.dts is not None:
        packet.stream = stream
        out.mux(packet)
  clips = []
  for name in ('raw.h264', 'a.mp4'):
    value = [{'mp4': name, 'text_0': 'a', 'text_1': 'b'}]
    (clip,) = read(tmp_path, tmp_path, value).clips
    clips.append([(s.start, s.end) for s in clip.segments])
  assert clips[0] == clips[1] and clips[0][0][1] is not None
