import os

import msgspec
import numpy as np
import pytest

from examples.cartoon import captions
from examples.cartoon import dataset
from examples.cartoon import render
from examples.cartoon import world
from tests.helpers import commands
from ttt_jax import geometry as geometry_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import shots
from ttt_jax.runtime import files
from ttt_jax.video import video_file


def write(path, stories=2, **kwargs):
  kwargs = dict(segments=2, height=32, width=48) | kwargs
  return dataset.write_dataset(path, stories, **kwargs)


def test_dataset_is_what_precompute_reads(tmp_path):
  boards = storyboard_lib.load_storyboards(write(tmp_path / 'data'))
  geometry = geometry_lib.Geometry.from_seconds(6, 32, 48)
  for seed, board in enumerate(boards):
    story = world.draw_story(seed, 2)
    path = tmp_path / 'data' / 'truth' / f'{board.name}.json'
    assert dataset.read_story(path) == story
    assert [s.text for s in board.segments] == captions.captions(story)
    assert [s.scene for s in board.segments] == [
      s.scene for s in story.segments
    ]
    videos = str(tmp_path / 'data' / 'videos')
    ranges = shots.frame_ranges(board, videos, geometry)
    frames = shots.read_frames(ranges, geometry, soften=False)
    np.testing.assert_array_equal(frames, render.frames(story, 32, 48))


def test_frame_rate(tmp_path):
  write(tmp_path, 1, fps=4)
  story = world.draw_story(0, 2)
  video = video_file.read_video(
    tmp_path / 'videos' / f'{story.name}.mp4',
    fps=4,
    height=32,
    width=48,
    soften=False,
  )
  np.testing.assert_array_equal(video, render.frames(story, 32, 48)[::4])


def test_a_data_set_without_a_frame_rate_has_16(tmp_path):
  write(tmp_path, 1)
  settings = files.read_json(tmp_path / 'dataset.json')
  assert settings.pop('fps') == 16
  files.write_json(settings, tmp_path / 'dataset.json')
  write(tmp_path, 2)
  with pytest.raises(ValueError, match='has stories with other fps'):
    write(tmp_path, 2, fps=8)


def test_resumes_and_grows(tmp_path, monkeypatch):
  write(tmp_path)
  before = sorted(os.listdir(tmp_path / 'videos'))
  (tmp_path / 'truth' / f'{before[0][:-4]}.json').unlink()  # Stopped in it.
  drawn = []
  draw = render.frames
  monkeypatch.setattr(
    render,
    'frames',
    lambda s, *a, **k: drawn.append(s.name) or draw(s, *a, **k),
  )
  path = write(tmp_path, 3)
  assert drawn == ['train_000000', 'train_000002']
  assert len(storyboard_lib.load_storyboards(path)) == 3
  assert len(os.listdir(tmp_path / 'truth')) == 3


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(segments=3), 'has stories with other segments; choose another'),
    (dict(height=64, width=64), '64x64; expected a width of 1.5 times'),
    (dict(height=24, width=36), '24x36; both must be multiples of 16'),
    (dict(stories=0), 'stories is 0'),
    (dict(fps=5), 'fps is 5; it must divide 16'),
    (dict(seed=-1), 'seed is -1'),
  ],
)
def test_bad_arguments(tmp_path, change, message):
  write(tmp_path, 1, segments=1)
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(ValueError, match=message):
    write(tmp_path, **dict(stories=1, segments=1) | change)
  assert sorted(tmp_path.rglob('*')) == before


def test_other_folder_is_refused(tmp_path):
  (tmp_path / 'notes.txt').write_text('mine')
  with pytest.raises(ValueError, match='is not empty and has no dataset.json'):
    write(tmp_path)
  assert os.listdir(tmp_path) == ['notes.txt']


def test_truth_is_checked(tmp_path):
  path = tmp_path / 'a.json'
  story = world.draw_story(0, 21)
  dataset.write_story(story, path)
  assert dataset.read_story(path) == story
  value = msgspec.to_builtins(story) | dict(cast=3)
  path.write_text(msgspec.json.encode(value).decode())
  with pytest.raises(ValueError, match='cast'):
    dataset.read_story(path)


def test_command(tmp_path):
  flags = '--stories=1', '--segments=1', '--height=32', '--width=48'
  module = 'examples.cartoon.dataset'
  process = commands.run(module, f'--out={tmp_path / "data"}', *flags)
  assert process.returncode == 0, process.stderr
  assert '--config.data.seconds=3' in process.stdout
  assert commands.run(module, *flags).stderr == (
    'error: --out is missing; give a folder, for example --out=data\n'
  )
