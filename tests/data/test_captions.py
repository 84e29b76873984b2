"""Captions of separate videos, in the files that people have."""

import dataclasses
import json
import re

import numpy as np
import pytest

from tests.helpers.fake_encoders import encode
from tests.helpers.fake_encoders import GEOMETRY
from ttt_jax.data import captions
from ttt_jax.data import episodes
from ttt_jax.video import video_file

# A segment has 8 frames, half a second.
ONE = dataclasses.replace(GEOMETRY, frames=9)


@pytest.fixture(name='videos', scope='module')
def _videos(tmp_path_factory):
  """Makes videos of 8, 17 and 25 frames: 1, 2 and 3 segments."""
  folder = tmp_path_factory.mktemp('videos')
  (folder / 'more').mkdir()
  for name, count in (('a', 8), ('more/b', 17), ('c', 25)):
    frames = np.full((count, 16, 32, 3), 99, np.uint8)
    video_file.write_video(folder / f'{name}.mp4', frames)
  return folder


NAMES = ['a.mp4', 'more/b.mp4', 'c.mp4']
TEXTS = ['A cat, "asleep".', 'Zwei Hunde: ü', 'a man']


def read(path, videos, geometry=ONE):
  clips = episodes.read_clips(path, str(videos), geometry).clips
  return [(clip.name, clip.prompts()) for clip in clips]


EXPECTED = [
  ('a', TEXTS[:1]),
  ('more/b@0s', TEXTS[1:2]),
  ('more/b@0.5s', TEXTS[1:2]),
  ('c@0s', TEXTS[2:]),
  ('c@0.5s', TEXTS[2:]),
  ('c@1s', TEXTS[2:]),
]


def rows(video='video', text='text', **more):
  return [{video: v, text: t, **more} for v, t in zip(NAMES, TEXTS)]


def lines(items):
  return '\n'.join(map(json.dumps, items)) + '\n'


def table(separator=',', header='video,text', end=''):
  quoted = [t.replace('"', '""') for t in TEXTS]
  out = [header] + [f'{n},"{t}"{end}' for n, t in zip(NAMES, quoted)]
  parts = [re.sub(r'^([^,]*),', rf'\1{separator}', line) for line in out]
  return '\n'.join(parts) + '\n'


@pytest.mark.parametrize(
  'name, text',
  [
    ('a.jsonl', lines(rows())),
    ('a.ndjson', lines(rows('file_name', 'text', fps=24, id=3))),
    ('A.JSONL', lines(rows('path', 'cap', num_frames=65))),
    ('a.jsonl', lines(rows('video_path', 'caption', start=0))),
    ('a.jsonl', lines([{**r, 'cap': [r['cap']]} for r in rows('path', 'cap')])),
    ('a.jsonl', lines(rows('mp4', 'text'))),
    ('a.json', json.dumps(rows())),
    ('a.json', json.dumps(rows('filename', 'short_prompt'))),
    ('a.json', json.dumps(rows('media_path', 'caption'))),
    ('a.json', json.dumps(rows('file_path', 'text', type='video'))),
    ('a.csv', table()),
    ('a.csv', table(header='path, caption')),
    ('a.csv', table().replace('.mp4,', '.mp4 ,')),
    ('a.CSV', table(header='Video,Prompt,score', end=',4.5')),
    ('a.csv', table(separator=';')),
    ('a.tsv', table(separator='\t')),
    ('a.jsonl', lines(rows()).replace('/', r'\\')),
    ('a.csv', table().replace('/', '\\')),
  ],
)
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_a_row_is_an_episode(videos, tmp_path, name, text, encoding):
  text = text.replace('\n', '\r\n') if encoding == 'utf-16' else text
  (tmp_path / name).write_bytes(text.encode(encoding))
  assert read(tmp_path / name, videos) == EXPECTED


def test_text_files_of_trainers(videos, tmp_path):
  (tmp_path / 'prompts.txt').write_text('\n'.join(TEXTS) + '\n\n')
  (tmp_path / 'videos.txt').write_bytes('\r\n'.join(NAMES).encode())
  for path in (tmp_path, tmp_path / 'prompts.txt', tmp_path / 'videos.txt'):
    assert read(path, videos) == EXPECTED
  (tmp_path / 'metadata.csv').write_text('file_name,text\nc.mp4,x\n')
  assert read(tmp_path, videos)[0] == ('c@0s', ['x'])


def test_a_text_file_for_each_video(videos, tmp_path):
  (tmp_path / 'more').mkdir()
  for name, text in zip(NAMES, TEXTS):
    words = text.replace(' ', '\n')
    (tmp_path / name.replace('mp4', 'txt')).write_text(f'{words}\n')
  assert sorted(read(tmp_path, videos)) == sorted(EXPECTED)
  (tmp_path / 'a.txt').unlink()
  (tmp_path / 'c.txt').unlink()
  with pytest.raises(ValueError, match='2 of 3 videos have no .*a.mp4, c.mp4;'):
    read(tmp_path, videos)


def test_videos_are_never_joined(videos, tmp_path):
  (tmp_path / 'a.jsonl').write_text(lines(rows()))
  three = dataclasses.replace(GEOMETRY, frames=25)
  assert read(tmp_path / 'a.jsonl', videos, three) == [('c', TEXTS[2:] * 3)]
  (tmp_path / 'a.jsonl').write_text(lines(rows()[:2]))
  message = r'no clip of 3 .* the longest, .more/b., has 2 .*{"segments": '
  with pytest.raises(ValueError, match=message):
    read(tmp_path / 'a.jsonl', videos, three)
  (tmp_path / 'b.json').write_text(json.dumps({'segments': rows()}))
  assert read(tmp_path / 'b.json', videos, three) == [('b', TEXTS)]


def test_many_captions_are_many_episodes(videos, tmp_path):
  many = [{'video': 'a.mp4', 'text': f't{i}'} for i in range(201)]
  (tmp_path / 'a.jsonl').write_text(lines(many))
  found = read(tmp_path / 'a.jsonl', videos)
  assert len(found) == 201 and len(dict(found)) == 201
  assert found[:2] == [('a', ['t0']), ('a (2)', ['t1'])]


def test_captions_are_encoded(videos, tmp_path):
  (tmp_path / 'a.csv').write_text('path,text\nc.mp4,c\n')
  geometry = dataclasses.replace(GEOMETRY, frames=17)
  clips = episodes.read_clips(tmp_path / 'a.csv', str(videos), geometry).clips
  manifest = encode(videos, tmp_path / 'out', clips)
  assert [c['name'] for c in manifest.clips] == ['c@0s']


@pytest.mark.parametrize(
  'name, text, message',
  [
    ('a.csv', 'path,text\na.mp4,a cat, asleep\n', 'line 2: the number of col'),
    ('a.csv', 'path,text\na.mp4\n', 'line 2: the number of columns'),
    ('a.csv', 'a.mp4,a cat\n', 'no captions; its first line must name'),
    ('a.csv', '', 'no captions'),
    ('a.csv', 'path,text\n', 'no captions'),
    ('a.csv', 'path,text,Text\na.mp4,a,b\n', "several columns 'text'"),
    ('a.csv', 'path,text\nno.mp4 ,a\n', 'no.mp4 does not exist'),
    ('a.csv', 'path,text\n/no.mp4,a\n', '/no.mp4 does not exist'),
    ('a.csv', 'path,text\n../a.mp4,a\n', 'needs an absolute path'),
    ('a.csv', 'path,text\na.mp4,"a cat\n', 'line 1: unexpected end'),
    ('a.csv', 'path,text\na.mp4,\n,b\n', '2 entries .*: entry 1 names its te'),
    ('a.csv', 'path,text,start\na.mp4,a,x\n', '"start" of entry 1 is "x"'),
    ('a.jsonl', '{"path": "a", "text": "b"}\n{"path": "a"}', 'entry 2 names'),
    ('a.jsonl', '{"path": "a", "text": "b"}\n7', 'entry 2 is not an object'),
    ('a.jsonl', '{"path": "a", "text": 3}', '"text" of entry 1 is 3'),
    ('a.jsonl', '{"path": "a", "text": ["b", "c"]}', 'is ."b", "c".; expected'),
    (
      'a.jsonl',
      '{"path": "a", "cap": "b", "text": "b"}',
      r'names its text 2 times \(text, cap\)',
    ),
    ('a.jsonl', '{"path": "a", "cap": "b", "cut": [0, 9]}', '"cut", which is'),
    ('a.jsonl', r'{"path": "a", "text": "b\u0000"}', 'without NUL'),
    ('a.jsonl', '{"path": "a", "text": " "}', 'text 1 of entry 1 is empty'),
    ('prompts.txt', 'a\nb', 'videos.txt does not exist'),
  ],
)
def test_captions_that_are_not_valid(videos, tmp_path, name, text, message):
  (tmp_path / name).write_text(text)
  with pytest.raises((ValueError, FileNotFoundError), match=message) as e:
    read(tmp_path / name, videos)
  assert '\n' not in str(e.value)


def test_texts_and_videos_correspond(videos, tmp_path):
  (tmp_path / 'prompts.txt').write_text('a\n\nb\n')
  (tmp_path / 'videos.txt').write_text('a.mp4\nc.mp4\n')
  with pytest.raises(ValueError, match='has 3 lines, but .* has 2'):
    read(tmp_path, videos)
  (tmp_path / 'videos.txt').write_text('a.mp4\nc.mp4\nc.mp4')
  with pytest.raises(ValueError, match='entry 2 names its text 0 times'):
    read(tmp_path, videos)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='no captions of 3 videos'):
    read(tmp_path / 'empty', videos)


def test_all_missing_videos_are_named(videos, tmp_path):
  many = [{'video': f'{i}.mp4', 'text': 't'} for i in range(12)]
  (tmp_path / 'a.jsonl').write_text(lines(many + rows()))
  with pytest.raises(FileNotFoundError, match='12 of 15 videos .* 2 more') as e:
    read(tmp_path / 'a.jsonl', videos)
  assert str(e.value).count('does not exist') == 10


def test_other_files_are_not_captions():
  text = {'text': 'a', 'video': 'v'}
  for value in (
    {'segments': [text]},
    [{**text, 'start': 1}],
    [{**text, 'scene': 1}],
    [{'mp4': 'a', 'text': 'a', 'scene_start': True}],
    [{'mp4': 'a', 'text_0': 'a'}],
    {'1': {'mp4': 'a', 'text': 'a'}},
    ['a'],
    [],
    7,
  ):
    assert not captions.are_captions(value, False)
  assert captions.are_captions([text], False)
  assert captions.are_captions([{**text, 'start': 1}], True)
