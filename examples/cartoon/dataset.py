"""Writes stories as videos with captions and their truth.

    python -m examples.cartoon.dataset --out=DIR --stories=100 --segments=3

    DIR/storyboards.json     captions, for `config.data.storyboards`
    DIR/videos/NAME.mp4      for `config.data.videos`
    DIR/truth/NAME.json      the story: `read_story` returns it, and
                             `motion.state` what every frame shows
    DIR/dataset.json         the settings

`python -m ttt_jax.precompute` encodes them. The videos are H.264 without loss,
about 1.2 MB a minute at 64x96: the usual yuv420p has a fourth of the colours'
pixels, and at this size 30 dB at any quality. The frames are sharp, so set
`config.data.soften=False`.

Stories of S segments are complete stories: every character is described in
them. So each stage of a curriculum has a data set of its own length. A first
segment has descriptions and simple acts only; precompute can also cut long
stories into clips of `config.data.seconds`, which show all acts, but most of
them without the description.

The command can be stopped at any moment, and started again with the same flags
or more stories.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import pathlib

from absl import flags
import msgspec
import numpy as np

from examples.cartoon import captions
from examples.cartoon import render
from examples.cartoon import story as story_lib
from examples.cartoon import words
from examples.cartoon import world
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import progress
from ttt_jax.runtime import schema
from ttt_jax.video import video_file

_SETTINGS_FILE = 'dataset.json'


def write_dataset(
  out: str | os.PathLike[str],
  stories: int,
  segments: int,
  *,
  split: str = 'train',
  settings: world.Settings = world.SETTINGS['full'],
  height: int = 64,
  width: int = 96,
  fps: int = story_lib.FPS,
  seed: int = 0,
  renamings: int = 1,
) -> pathlib.Path:
  """Writes a data set; stories that are there are not drawn again.

  Args:
    out: Folder.
    stories: Number of stories.
    segments: Segments per story.
    split: One of `story.SPLITS`.
    settings: Choices of the stories.
    height: Pixel rows, a multiple of 16.
    width: Pixel columns, 1.5 times the rows and a multiple of 16.
    fps: Frames per second, a divisor of 16.
    seed: Seed of the first story; the others follow.
    renamings: Number of captions per video: the story's own, and the same with
      other names. A name means nothing, so this is more to learn from.

  Returns:
    Path of storyboards.json.

  Raises:
    ValueError: an argument is not valid, or the folder contains a data set of
      other arguments.
  """
  out = pathlib.Path(out)
  if height % 16 or width % 16:
    raise ValueError(
      f'the size is {height}x{width}; both must be multiples of 16, for example'
      ' 64x96'
    )
  render.check_size(height, width)
  render.check_fps(fps)
  if stories < 1:
    raise ValueError(f'stories is {stories}; expected 1 or more')
  first = world.draw_story(seed, segments, settings, split)
  files.check_writable(out, folder=True)
  _check_settings(
    out,
    dict(
      version=world.VERSION,
      split=split,
      segments=segments,
      height=height,
      width=width,
      fps=fps,
      settings=dataclasses.asdict(settings),
    ),
    first.name,
  )
  boards = []
  for each in progress.track(range(seed, seed + stories), 'draw stories'):
    story = world.draw_story(each, segments, settings, split)
    _write_story(out, story, height, width, fps)
    for i in range(renamings):
      boards.append(_board(rename(story, settings, i), story.name, i))
  path = out / 'storyboards.json'
  files.write_json(dict(storyboards=boards), path)
  return path


def _check_settings(out: pathlib.Path, value: dict, name: str) -> None:
  """Writes the settings of a new data set, compares those of an old one."""
  value = files.to_json_types(value)
  path = out / _SETTINGS_FILE
  if path.exists():
    # Data sets of earlier versions do not contain it.
    found = dict(fps=story_lib.FPS) | files.read_json(path)
    if found != value:
      different = [k for k in value if found.get(k) != value[k]]
      raise ValueError(
        f'{out} has stories with other {", ".join(different)}; choose another'
        ' --out'
      )
    return
  if out.is_dir() and any(out.iterdir()):
    raise ValueError(
      f'{out} is not empty and has no {_SETTINGS_FILE}; choose another --out'
      f' for {name} and the other stories'
    )
  for folder in (out / 'videos', out / 'truth'):
    folder.mkdir(parents=True, exist_ok=True)
  files.write_json(value, path)


def _write_story(
  out: pathlib.Path, story: story_lib.Story, height: int, width: int, fps: int
) -> None:
  truth = out / 'truth' / f'{story.name}.json'
  if truth.exists():
    return
  # The truth is written last: it marks a complete story.
  for folder in (out / 'videos', out / 'truth'):
    folder.mkdir(exist_ok=True)
  video_file.write_video(
    out / 'videos' / f'{story.name}.mp4',
    render.frames(story, height, width, step=story_lib.FPS // fps),
    fps=fps,
    lossless=True,
  )
  write_story(story, truth)


def rename(
  story: story_lib.Story, settings: world.Settings, i: int
) -> story_lib.Story:
  """Returns a story with other names, drawn anew for every number `i` but 0."""
  if i == 0:
    return story
  rng = np.random.default_rng(
    [story_lib.SPLITS.index(story.split), story.seed, i]
  )
  names = rng.permutation(words.NAMES[: settings.names])
  new = {c.name: str(name) for c, name in zip(story.cast, names)}
  cast = tuple(dataclasses.replace(c, name=new[c.name]) for c in story.cast)
  segments = tuple(
    dataclasses.replace(
      segment,
      acts=tuple(
        dataclasses.replace(act, target=new.get(act.target, act.target))
        for act in segment.acts
      ),
    )
    for segment in story.segments
  )
  return dataclasses.replace(story, cast=cast, segments=segments)


def _board(story: story_lib.Story, video: str, i: int) -> dict:
  board = captions.storyboard(story)
  if i:
    board['name'] += f'_{i}'
  seconds = story_lib.SEGMENT_FRAMES / story_lib.FPS
  for j, segment in enumerate(board['segments']):
    segment |= dict(video=f'{video}.mp4', start=seconds * j)
  return board


def write_story(story: story_lib.Story, path: str | os.PathLike[str]) -> None:
  """Writes a story as JSON, completely or not at all."""
  files.write_json(msgspec.to_builtins(story), path)


def read_story(path: str | os.PathLike[str]) -> story_lib.Story:
  """Reads a story.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a story.
  """
  return schema.convert(files.read_json(path), story_lib.Story, f'{path}')


def _define_flags() -> None:
  flags.DEFINE_string('out', None, 'Folder of the data set.')
  cli.define('stories', 100, 'Number of stories.', schema.PositiveInt)
  cli.define('segments', 21, 'Segments of three seconds.', schema.PositiveInt)
  flags.DEFINE_enum('split', 'train', story_lib.SPLITS, 'Split of the stories.')
  flags.DEFINE_enum(
    'settings', 'full', [*world.SETTINGS], 'Choices of the stories.'
  )
  cli.define('height', 64, 'Pixel rows.', schema.PositiveInt)
  cli.define('width', 96, 'Pixel columns.', schema.PositiveInt)
  cli.define('fps', story_lib.FPS, 'Frames per second.', schema.PositiveInt)
  cli.define('seed', 0, 'Seed of the first story.', schema.NonNegativeInt)
  cli.define(
    'renamings',
    1,
    'Captions per video, each with other names.',
    schema.PositiveInt,
  )


def main(argv: Sequence[str]) -> int:
  """Writes the data set of the flags."""
  del argv
  values = flags.FLAGS
  if values.out is None:
    raise ValueError('--out is missing; give a folder, for example --out=data')
  path = write_dataset(
    values.out,
    values.stories,
    values.segments,
    split=values.split,
    settings=world.SETTINGS[values.settings],
    height=values.height,
    width=values.width,
    fps=values.fps,
    seed=values.seed,
    renamings=values.renamings,
  )
  print(
    f'wrote {path}: --config.data.storyboards={path}'
    f' --config.data.videos={path.parent / "videos"}'
    f' --config.data.seconds={3 * values.segments} --config.data.soften=False'
  )
  return 0


if __name__ == '__main__':
  _define_flags()
  cli.run(main)
