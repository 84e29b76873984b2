"""Shows a story: prints its captions, writes a picture and a video.

python -m examples.cartoon.show --seed=3 --out=story.png
python -m examples.cartoon.show --split=test --settings=simple --out=a.mp4
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

from absl import flags
import numpy as np
from rich import console as rich_console
from rich import table as rich_table

from examples.cartoon import captions
from examples.cartoon import motion
from examples.cartoon import render
from examples.cartoon import story as story_lib
from examples.cartoon import world
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import schema
from ttt_jax.video import contact_sheet
from ttt_jax.video import video_file

_SHOWN = 38  # frame of a segment that is in the picture


def sheet_frames(story: story_lib.Story, height: int) -> np.ndarray:
  """Returns one frame per segment, uint8 [segments, height, width, 3]."""
  width = round(height * story_lib.ASPECT)
  return np.stack(
    [
      render.frame(
        motion.state(story, story_lib.SEGMENT_FRAMES * i + _SHOWN),
        height,
        width,
      )
      for i in range(len(story.segments))
    ]
  )


def _print(story: story_lib.Story) -> None:
  table = rich_table.Table(title=story.name)
  for column in ('seconds', 'scene', 'caption'):
    table.add_column(column)
  for i, text in enumerate(captions.captions(story)):
    table.add_row(f'{3 * i}', f'{story.segments[i].scene + 1}', text)
  rich_console.Console().print(table)


def _define_flags() -> None:
  flags.DEFINE_string('out', None, 'Picture (.png) or video (.mp4) to write.')
  cli.define('seed', 0, 'Seed of the story.', schema.NonNegativeInt)
  cli.define('segments', 21, 'Segments of three seconds.', schema.PositiveInt)
  flags.DEFINE_enum('split', 'train', story_lib.SPLITS, 'Split of the story.')
  flags.DEFINE_enum(
    'settings', 'full', [*world.SETTINGS], 'Choices of the story.'
  )
  cli.define('height', 192, 'Pixel rows of a frame.', schema.PositiveInt)


def main(argv: Sequence[str]) -> int:
  """Shows the story of the flags."""
  del argv
  values = flags.FLAGS
  story = world.draw_story(
    values.seed,
    values.segments,
    world.SETTINGS[values.settings],
    values.split,
  )
  height = values.height
  width = round(height * story_lib.ASPECT)
  out = pathlib.Path(values.out) if values.out else None
  if out is not None:
    if out.suffix not in ('.png', '.mp4'):
      raise ValueError(f'--out={out} must end in .png or .mp4')
    render.check_size(height, width)
    files.check_writable(out)
  _print(story)
  if out is None:
    return 0
  if out.suffix == '.png':
    contact_sheet.write_contact_sheet(
      sheet_frames(story, height),
      out,
      labels=captions.captions(story),
    )
  else:
    frames = render.frames(story, height, width)
    video_file.write_video(out, frames, fps=story_lib.FPS)
  print(f'wrote {out}')
  return 0


if __name__ == '__main__':
  _define_flags()
  cli.run(main)
