"""Storyboards, captions, data sets and videos."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import pathlib
import random
import tempfile

import av
import numpy as np
from PIL import Image

from tests.fuzz import mutations
from tests.fuzz import target as target_lib
from tests.helpers import fake_encoders
from tests.helpers import tiny_experiment
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import check as check_lib
from ttt_jax.data import episodes
from ttt_jax.data import single_video
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import reader as reader_lib
from ttt_jax.data.store import writer as writer_lib
from ttt_jax.encoders import text_cache
from ttt_jax.video import video_file

_SEGMENT = {
  'text': '<start_scene>A cat sleeps.',
  'negative': 'a dog',
  'scene': 2,
  'video': 'cat.mp4',
  'start': 0.5,
  'end': 3.5,
}
_BOARD = {
  'name': 'a day',
  'shots': {'cat': {'text': 'A cat.', 'video': 'cat.mp4'}},
  'segments': ['cat', {'shot': 'cat', 'repeat': 3}, _SEGMENT],
}
_STORYBOARDS = (
  _BOARD,
  {'shots': _BOARD['shots'], 'storyboards': [_BOARD, ['cat', 'cat']]},
  ['A cat sleeps.', 'It wakes up.'],
  [
    {'text': 'a', 'neg_text': 'b', 'requires_scene_transition': True},
    {'text': 'c', 'neg_text': '', 'requires_scene_transition': False},
  ],
)
_CAPTIONS = (
  *_STORYBOARDS[:2],
  [
    {
      'name': 'ep01',
      'video': 'cat.mp4',
      'scenes': [
        {'start': 0, 'end': 1.1, 'texts': ['one', 'two']},
        {'start': 1.1, 'end': 2, 'texts': ['three', 'four'], 'video': 'x.mp4'},
      ],
    }
  ],
  [
    {
      'mp4': 'ep01/000.mp4',
      'text_0': 'one',
      'text_1': 'two',
      'scene_start': [True, False],
      'scene_end': [False, True],
    }
  ],
  {
    str(i): {
      'mp4': f'ep01/video_sample_000{i}.mp4',
      'text': 'a',
      'scene_start': i == 1,
      'scene_end': False,
    }
    for i in (1, 2, 3)
  },
  [{'video': f'{n}.mp4', 'text': f'film {n}'} for n in 'abc'],
  [{'file_name': f'{n}.mp4', 'caption': f'film {n}'} for n in 'abc'],
  [{'path': f'{n}.mp4', 'cap': [f'film {n}']} for n in 'abc'],
)


def _write_json(rng: random.Random, folder: pathlib.Path, values) -> str:
  """Writes a changed JSON or JSONL file; returns its name."""
  value = rng.choice(values)
  is_lines = isinstance(value, list) and rng.random() < 0.3
  name = rng.choice(
    ('a.jsonl', 'a.JSONL', 'a.ndjson') if is_lines else ('a.json',)
  )
  data = json.dumps(value).encode()
  if is_lines:
    data = '\n'.join(map(json.dumps, value)).encode()
  mutations.write_changed(rng, folder, {name: data})
  return name


def _read_storyboards(folder: pathlib.Path, name: str) -> None:
  boards = storyboard_lib.load_storyboards(folder / name)
  for board in boards:
    target_lib.check_sane(dataclasses.asdict(board), 'storyboard')
    assert board.prompts() and board.negatives() and board.seconds
  storyboard_lib.lint_all(boards, 226, len)
  storyboard_lib.Storyboard.load(f'{folder / name}#{boards[0].name}')


target_lib.add(
  target_lib.Target(
    'storyboards',
    'data',
    lambda rng, folder: _write_json(rng, folder, _STORYBOARDS),
    _read_storyboards,
    weight=2,
  )
)


@functools.cache
def _videos() -> mutations.Files:
  """Returns small videos in several containers."""
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    for name, codec, pixels in (
      ('a.mp4', 'libx264', 'yuv420p'),
      ('a.mkv', 'libx264', 'yuv420p'),
      ('a.avi', 'mpeg4', 'yuv420p'),
      ('a.ts', 'mpeg2video', 'yuv420p'),
      ('a.webm', 'libvpx', 'yuv420p'),
      ('a.gif', 'gif', 'rgb8'),
    ):
      path = f'{folder}/{name}'
      with av.open(path, 'w') as container:
        stream = container.add_stream(codec, 25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pixels
        for i in range(12):
          pixel = np.full((32, 48, 3), 20 * i, np.uint8)
          frame = av.VideoFrame.from_ndarray(pixel, format='rgb24')
          container.mux(stream.encode(frame))
        container.mux(stream.encode())
      found[name] = pathlib.Path(path).read_bytes()
  return found


# Name of the file or folder that is named, and the files.
_TABLES: tuple[tuple[str, mutations.Files], ...] = (
  ('a.csv', {'a.csv': b'video,text\ncat.mp4,"a cat, asleep"\ncat.mp4,b\n'}),
  ('a.tsv', {'a.tsv': b'path\tcaption\tstart\ncat.mp4\ta cat\t0\n'}),
  (
    'prompts.txt',
    {'prompts.txt': b'a\nb\n', 'videos.txt': b'cat.mp4\nc.mp4\n'},
  ),
  ('.', {'prompts.txt': b'a\n', 'videos.txt': b'cat.mp4\n'}),
  ('texts', {'texts/cat.txt': b'a cat\n', 'texts/dog.txt': b'a dog\n'}),
  ('.', {'metadata.csv': b'file_name,text\ncat.mp4,a cat\n'}),
)


def _write_captions(rng, folder):
  mutations.write(folder / 'videos', {'cat.mp4': _videos()['a.mp4']})
  if rng.random() < 0.3:
    name, files = rng.choice(_TABLES)
    mutations.write_changed(rng, folder, files)
    return name
  return _write_json(rng, folder, _CAPTIONS)


def _read_captions(folder, name):
  clips = episodes.read_clips(
    folder / name, str(folder / 'videos'), fake_encoders.GEOMETRY
  )
  clips.summary()
  for board in clips.clips:
    target_lib.check_sane(dataclasses.asdict(board), 'clip')


target_lib.add(
  target_lib.Target(
    'captions', 'data', _write_captions, _read_captions, weight=2
  )
)


@functools.cache
def _frames() -> mutations.Files:
  """Returns a folder of numbered pictures."""
  found = {}
  for i in range(8):
    content = io.BytesIO()
    Image.new('RGB', (48, 32), (20 * i, 0, 0)).save(content, 'PNG')
    found[f'frames/{i:03d}.png'] = content.getvalue()
  return found


def _write_video(rng, folder):
  name = rng.choice((*sorted(_videos()), 'frames'))
  start = rng.choice((0.0, 0.0, 0.2, 0.47, 100.0, -1.0, float('nan')))
  fps = rng.choice(
    (8, 25, 0, 1e9, float('nan')) if rng.random() < 0.2 else (8,)
  )
  if name == 'frames':
    mutations.write_changed(rng, folder, _frames())
  else:
    mutations.write(folder, {name: mutations.octets(rng, _videos()[name])})
  return name, fps, start


def _read_video(folder, argument):
  name, fps, start = argument
  info = video_file.probe(folder / name)
  target_lib.check_sane(info, 'probe')
  video_file.read_video(
    folder / name, fps=fps, height=16, width=32, start=start, frames=2
  )


target_lib.add(
  target_lib.Target('videos', 'video', _write_video, _read_video, weight=2)
)


def _write_clip_to_edit(rng, folder):
  """Changes the video, or the numbers that select its frames."""
  from tests.helpers import configs

  config = configs.load('tune_a_video').get_config()
  name = rng.choice(sorted(_videos()))
  data = _videos()[name]
  config.unlock()
  config.video, config.prompt = str(folder / name), 'a cat'
  config.data.height = config.data.width = 32
  config.data.frames, config.data.stride, config.data.start = 4, 2, 0
  if rng.random() < 0.5:
    data = mutations.octets(rng, data)
  else:
    field = rng.choice(('frames', 'stride', 'start', 'height'))
    with config.ignore_type():
      config.data[field] = rng.choice((-1, 0, 1, 3, 10**9, 0.5))
  mutations.write(folder, {name: data})
  return config


def _read_clip_to_edit(folder, config):
  single_video.check(config)
  single_video.read_frames(config)


target_lib.add(
  target_lib.Target(
    'clip to edit', 'video', _write_clip_to_edit, _read_clip_to_edit
  )
)


@functools.cache
def _data_set() -> mutations.Files:
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'data')
    tiny_experiment.write_data_set(path, tiny_experiment.config())
    return mutations.read(path)


def _read_data_set(folder):
  data = reader_lib.LatentDataset(folder)
  manifest_lib.check_manifest(data.manifest, fps=16)
  target_lib.check_sane(data.manifest.identity(), 'manifest')
  for i in range(min(len(data), 3)):
    assert data.name(i) and data[i]
  assert data.null_text.size and data.latent_shape and data.text_shape


def _is_manifest(name):
  return 'manifest' in name


target_lib.add_folder(
  'manifests', 'data', _data_set, _read_data_set, _is_manifest
)
target_lib.add_folder(
  'arrays',
  'data',
  _data_set,
  _read_data_set,
  lambda name: not _is_manifest(name),
  weight=2,
)
target_lib.add_folder(
  'check of a data set',
  'data',
  _data_set,
  lambda folder: check_lib.check(
    folder, check_lib.Expected(videos_dir=str(folder))
  ),
)


def _resume(folder):
  """Opens a data set as precompute does when it goes on."""
  fields = json.loads(_data_set()['manifest.json'])
  expected = manifest_lib.Manifest(**fields | dict(clips=(), corrupt=()))
  writer = writer_lib.LatentWriter(folder, expected, tiny_experiment.CLIPS)
  for row in range(tiny_experiment.CLIPS):
    writer.settled(row, 'x')


target_lib.add_folder('resumed data set', 'data', _data_set, _resume)


@functools.cache
def _embedding() -> mutations.Files:
  with tempfile.TemporaryDirectory() as folder:
    cache = text_cache.TextCache(fake_encoders.FakeText(), folder=folder)
    cache.encode(['a cat'])
    return mutations.read(pathlib.Path(folder))


target_lib.add_folder(
  'text cache',
  'data',
  _embedding,
  lambda folder: text_cache.TextCache(
    fake_encoders.FakeText(), folder=folder
  ).encode(['a cat']),
  weight=0.3,
  writes=lambda path: True,
)
