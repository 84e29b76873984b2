"""Segments are those of precompute, and texts stay with their times."""

import json

import pytest

from tests.helpers import videos
from ttt_jax import geometry
from ttt_jax.annotation import frames
from ttt_jax.annotation import project as project_lib
from ttt_jax.annotation import scenes
from ttt_jax.annotation import work
from ttt_jax.data import episodes as episodes_lib
from ttt_jax.data import shots


def _reopen(project):
  out = project_lib.Project(project.folder, work.geometry(None), project.videos)
  return out, out.segments()


def _texts(segments):
  return [(s.start, s.text) for s in segments if s.text]


def test_precompute_cuts_in_the_same_way(project, episodes):
  segments = project.segments()
  for i, segment in enumerate(segments):
    segment.text = f'text {i}'
  project.save(segments)
  sizes = geometry.Geometry.from_seconds(3, 32, 64)
  found = episodes_lib.read_clips(
    project.folder / 'captions.json', str(episodes), sizes
  )
  read = [s for clip in found.clips for s in clip.segments]
  assert [s.text for s in read] == ['text 0', 'text 1', 'text 2']
  # Of the 8 frames more, one is the first of a clip; the rest is cropped.
  assert [s.start for s in segments] == [3 / 16, 3 + 3 / 16, 8.25]
  assert [(s.start, s.end) for s in read] == [
    (s.start, s.stop) for s in segments
  ]
  assert not found.too_short
  assert project.too_short == [
    ('ep 01.mp4', 6.5, 8.25),
    ('ep 01.mp4', 10.75, 12.0),
  ]
  # No frame of another scene is in a clip, nor on a strip.
  edges = [0, 104, 132, 172]
  for clip, (low, high) in zip(
    found.clips, [(3, 52), (51, 100), (edges[2], edges[3])]
  ):
    ranges = shots.frame_ranges(clip, str(episodes), sizes)
    shown = videos.numbers(shots.read_frames(ranges, sizes, False))
    assert (min(shown), max(shown)) == (low, high - 1)
  for segment, (low, high) in zip(segments, [(3, 52), (51, 100), (132, 172)]):
    when = frames.times(project, segment, 6)
    pixels = frames.grab(episodes / 'ep 01.mp4', when, 32)
    shown = [videos.numbers(p[None])[0] for p in pixels]
    assert low <= shown[0] and shown[-1] < high
    assert shown == sorted(shown)


def test_texts_stay_when_cuts_change(project):
  segments = project.segments()
  for segment, text in zip(segments, ('one', 'two', 'drei')):
    segment.text = text
  assert project.save(segments) == 0
  reopened, segments = _reopen(project)
  assert [t for _, t in _texts(segments)] == ['one', 'two', 'drei']
  # A cut is corrected by hand: the first scene begins a second later.
  path = project.folder / 'scenes.json'
  value = json.loads(path.read_text())
  value['episodes']['ep 01.mp4']['cuts'] = [1.0, 7.5]
  path.write_text(json.dumps(value))
  reopened, segments = _reopen(project)
  starts = [s.start for s in segments]
  assert starts == [1 + 3 / 16, 4 + 3 / 16, 7.5 + 11 / 16]
  assert _texts(segments) == list(zip(starts, ('one', 'two', 'drei')))
  reopened.save(segments)
  # No segment shows the third text any more.
  value['episodes']['ep 01.mp4']['cuts'] = [1.0, 7.5, 9.0, 10.5]
  path.write_text(json.dumps(value))
  reopened, segments = _reopen(project)
  assert [t for _, t in _texts(segments)] == ['one', 'two']
  assert reopened.save(segments) == 1
  unplaced = json.loads((project.folder / 'captions.unplaced.json').read_text())
  assert [(t['start'], t['text']) for t in unplaced] == [
    (7.5 + 11 / 16, 'drei')
  ]


def test_names_of_videos_elsewhere_are_absolute(project, tmp_path):
  assert project.name(project.videos / 'a' / 'b.mp4') == 'a/b.mp4'
  other = tmp_path / 'c.mp4'
  assert project.name(other) == str(other)
  assert project.path(str(other)) == other


@pytest.mark.parametrize(
  'name, text, message',
  [
    ('scenes.json', '{"id": "x"}', 'videos'),
    ('captions.json', '[{"video": "a.mp4"}]', 'scenes'),
    ('captions.json', '[{"video": "a.mp4", "scenes": [{"texts": [', 'not JSON'),
  ],
)
def test_damaged_files_are_not_replaced(project, name, text, message):
  path = project.folder / name
  path.write_text(text)
  with pytest.raises(ValueError, match=f'{name}.*{message}'):
    _reopen(project)
  assert path.read_text() == text


@pytest.mark.parametrize(
  'seconds, cuts, message',
  [
    (12.0, (8.0, 3.0), 'cuts of ep 01.mp4 must increase'),
    (12.0, (13.0,), 'cuts of ep 01.mp4 must increase'),
    (1e9, (), 'at most 86400 are possible'),
  ],
)
def test_impossible_cuts(project, seconds, cuts, message):
  project.set_cuts('ep 01.mp4', scenes.Cuts(seconds, cuts), 3.0, 0.2)
  with pytest.raises(ValueError, match=message):
    project.segments()
