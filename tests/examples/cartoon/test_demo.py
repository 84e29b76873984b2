"""The demonstration reads a story, shows and judges a video."""

import dataclasses
import importlib.util
import json
import pathlib

import numpy as np
import pytest

from examples.cartoon import captions
from examples.cartoon import demo
from examples.cartoon import render
from examples.cartoon import story as story_lib
from examples.cartoon import train
from examples.cartoon import world
from tests.helpers import configs
from ttt_jax.video import video_file

STORY = 'examples/cartoon/story.json'


@dataclasses.dataclass
class Pipe:
  """Returns the true frames instead of sampled ones."""

  frames: np.ndarray
  fps: int = story_lib.FPS

  def __call__(self, story, **options):
    assert len(story.segments) == 3
    assert options == dict(seed=3)
    return self.frames


def test_the_story_is_a_drawn_one(request):
  story = world.draw_story(10, 21, world.SETTINGS['simple'], 'test')
  board, _ = demo.read_story(str(request.config.rootpath / STORY))
  assert [s.text for s in board.segments] == captions.captions(story)


def test_true_frames_are_right_in_every_respect(tmp_path, capsys):
  drawn = world.draw_story(10, 3, world.SETTINGS['simple'], 'test')
  board = captions.storyboard(drawn) | dict(name='cartoon')
  path = tmp_path / 'story.json'
  path.write_text(json.dumps(board))
  story, script = demo.read_story(str(path))
  frames = render.frames(drawn, 64, 96)
  written = demo.make(Pipe(frames), story, script, tmp_path / 'new', seed=3)
  video, sheet, report = written
  shown = video_file.read_video(video, fps=story_lib.FPS, height=64, width=96)
  assert shown.shape == frames.shape
  assert sheet.stat().st_size > 10_000
  verdict = json.loads(pathlib.Path(report).read_text())['verdicts'][0]
  assert verdict['score']['story'] == 'cartoon'
  assert min(verdict['score']['axes'].values()) > 0.99
  shown = capsys.readouterr().out
  assert 'what cartoon shows' in shown
  assert '✗' not in shown


def test_words_that_the_model_has_not_seen(tmp_path):
  path = tmp_path / 'mine.json'
  path.write_text('{"segments": ["Bo walks to the bota."]}')
  with pytest.raises(ValueError, match=r"mine.json: .*'bota'.*boat"):
    demo.read_story(str(path))


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('Bo walks to the tower.', "'tower' of segment 2; known .*barn, boat, kit"),
    ('Bo, a purple bear, waves.', "'purple' of segment 2; .* red, blue"),
    ('Bo strolls to the boat.', "'strolls' of segment 2; known are .*walks"),
  ],
)
def test_words_that_occur_in_no_training_story(tmp_path, text, message):
  path = tmp_path / 'mine.json'
  path.write_text(json.dumps(dict(segments=['Bo waves at the boat.', text])))
  with pytest.raises(ValueError, match=f'mine.json: .*trained on .*{message}'):
    demo.read_story(path)


@pytest.mark.parametrize('quick', [False, True])
def test_steps_name_modules_and_configs_that_exist(request, quick):
  cartoon = configs.load('cartoon')
  titles = []
  for step in train.steps(quick):
    titles.append(step.title)
    assert importlib.util.find_spec(step.module)
    for argument in step.arguments:
      path, _, stage = argument.partition('=')[2].partition(':')
      if path.startswith('configs/'):
        assert (request.config.rootpath / path).is_file(), argument
        assert cartoon.get_config(stage).stage == stage
  assert titles[-2:] == ['export', 'sample']
