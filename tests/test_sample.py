"""The command that samples a video writes down how it was made."""

import json
import types

import numpy as np
import pytest

from tests.helpers import commands
from ttt_jax import pipeline
from ttt_jax.pipeline import pretrained
from ttt_jax.pipeline.sampling import Sampling
from ttt_jax.video import video_array
from ttt_jax.video import video_file


def test_the_file_contains_its_settings(tmp_path, monkeypatch):
  class Pipe:
    config = types.SimpleNamespace(mixer='ttt_mlp')
    scheduler, fps = 'ddim', 8
    sampling = Sampling()

    def geometry(self, storyboard):
      return types.SimpleNamespace(table=lambda: [('segments', 1)])

    def __call__(self, storyboard, **options):
      frames = np.zeros((25, 32, 48, 3), np.uint8)
      return video_array.Video(frames, self.fps)

  load = lambda *_: Pipe()
  monkeypatch.setattr(pipeline.VideoPipeline, 'load', load)
  monkeypatch.setattr(pretrained, 'is_pretrained', lambda folder: True)
  (tmp_path / 'model').mkdir()
  board = dict(name='a day', segments=['A cat.'])
  (tmp_path / 'story.json').write_text(json.dumps(board))
  done = commands.run(
    'ttt_jax.sample',
    '--workdir=model',
    '--storyboard=story.json',
    '--out=a.mp4',
    '--steps=7',
    '--seed=3',
    cwd=tmp_path,
  )
  assert not done.returncode, done.stderr
  found = video_file.read_settings(tmp_path / 'a.mp4')
  assert found.pop('version').startswith('ttt_jax ')
  assert found == dict(
    checkpoint='model',
    mixer='ttt_mlp',
    averaged_weights=True,
    steps=7,
    guidance=6.0,
    guidance_schedule='cosine',
    scheduler='ddim',
    reuse=1,
    seed=3,
    story='a day',
    texts=['A cat.'],
  )


def test_precompile_samples_nothing(tmp_path, monkeypatch):
  compiled = []

  class Pipe:
    scheduler, sampling = 'ddim', Sampling()

    def geometry(self, storyboard):
      return types.SimpleNamespace(table=lambda: [('segments', 1)])

    def precompile(self, storyboard, **options):
      compiled.append((storyboard.name, options['steps']))

  monkeypatch.setattr(pipeline.VideoPipeline, 'load', lambda *_: Pipe())
  monkeypatch.setattr(pretrained, 'is_pretrained', lambda folder: True)
  (tmp_path / 'model').mkdir()
  board = dict(name='a day', segments=['A cat.'])
  (tmp_path / 'story.json').write_text(json.dumps(board))
  command = 'ttt_jax.sample', '--workdir=model', '--storyboard=story.json'
  done = commands.run(*command, cwd=tmp_path)
  assert 'error: --out is missing; for example ttt-jax sample' in done.stderr
  done = commands.run(*command, '--precompile', '--steps=7', cwd=tmp_path)
  assert not done.returncode, done.stderr
  assert compiled == [('a day', 7)]
  assert 'compiled the programs of the video in ' in done.stdout


def test_texts_instead_of_a_storyboard(tmp_path, monkeypatch):
  seen = []

  class Pipe:
    scheduler, sampling = 'ddim', Sampling()

    def geometry(self, storyboard):
      return types.SimpleNamespace(table=lambda: [('segments', 1)])

    def precompile(self, storyboard, **options):
      seen.append((storyboard.prompts(), storyboard.negatives()))

  monkeypatch.setattr(pipeline.VideoPipeline, 'load', lambda *_: Pipe())
  monkeypatch.setattr(pretrained, 'is_pretrained', lambda folder: True)
  command = 'ttt_jax.sample', '--workdir=model', '--precompile'
  for flags in (
    ['--prompt=Pip runs, to the barn.', '--negative=blur'],
    ['--prompt=A cat.', '--prompt=It eats.'],
    ['--storyboard=quickstart_3s#bikes'],
  ):
    done = commands.run(*command, *flags, cwd=tmp_path)
    assert not done.returncode, done.stderr
  one, two, shipped = seen
  assert one == (['Pip runs, to the barn.'], ['blur'])
  assert two == (['A cat.', 'It eats.'], ['', ''])
  assert len(shipped[0]) == 1


@pytest.mark.parametrize(
  'flags, message',
  [
    (
      ['--prompt=a', '--storyboard=b'],
      '--storyboard and --prompt exclude each other; give one',
    ),
    (
      ['--prompt=a.json'],
      "--prompt is 'a.json', the name of a file; give --storyboard=a.json",
    ),
    ([], '--storyboard or --prompt is missing; for example ttt-jax sample'),
  ],
)
def test_one_line(flags, message):
  command = 'ttt_jax.sample', '--workdir=model', '--out=a.mp4'
  done = commands.run(*command, *flags)
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith(f'error: {message}')
