"""Frames of segments: strips for a page, and pictures for a captioner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
import hashlib
import pathlib
import re

import numpy as np
from PIL import Image

from ttt_jax.annotation import project as project_lib
from ttt_jax.pages import media
from ttt_jax.runtime import files
from ttt_jax.video import decode
from ttt_jax.video import picture

FOLDER = 'frames'
STRIP_FRAMES = 4
_STRIP_HEIGHT = 144
_MOST_HEIGHT = 480  # of a captioner's frames
_GAP = 20  # Seconds between two frames over which a file is not decoded.


def strip_path(
  project: project_lib.Project, segment: project_lib.Segment
) -> str:
  """Returns the path of a segment's strip, relative to the project."""
  span = segment.start, project.end(segment)
  name = '-'.join(f'{round(1000 * t):08d}' for t in span)
  stem = re.sub(r'[^\w.-]+', '_', segment.video).strip('._')[-60:]
  digest = hashlib.sha256(segment.video.encode()).hexdigest()[:6]
  return f'{FOLDER}/{stem}-{digest}/{name}.jpg'


def times(
  project: project_lib.Project, segment: project_lib.Segment, count: int
) -> list[float]:
  """Returns the middles of equal parts of a segment, up to its last frame."""
  last = project.end(segment) - 0.5 / project.fps
  parts = [(i + 0.5) * project.seconds / count for i in range(count)]
  return [min(segment.start + t, last) for t in parts]


def grab(
  path: pathlib.Path, when: Sequence[float], height: int
) -> Iterator[np.ndarray]:
  """Yields the frames that are shown at increasing times.

  Args:
    path: Path of the video.
    when: Times in seconds, increasing; the last frame stands for those after
      the end.
    height: Height of the frames; the video's if that is smaller.

  Yields:
    uint8 [H, W, 3].

  Raises:
    FileNotFoundError: the video does not exist.
    ValueError: it cannot be read.
  """
  runs: list[list[float]] = []
  for time in when:
    if not runs or time - runs[-1][-1] > _GAP:
      runs.append([])
    runs[-1].append(time)
  for run in runs:
    yield from _grab_run(path, run, height)


def _grab_run(path, when, height):
  begin = Fraction(when[0]).limit_denominator(1000)
  source = picture.progressive(decode.frames(path, begin, Fraction(1)))
  convert, done, timed = None, 0, None
  for timed in source:
    while done < len(when) and when[done] < timed.end:
      convert = convert or _converter(path, timed, height)
      yield convert(timed)
      done += 1
    if done == len(when):
      return
  if timed is None:
    raise ValueError(f'{path} has no frame that can be decoded')
  convert = convert or _converter(path, timed, height)
  for _ in when[done:]:
    yield convert(timed)


def _converter(path, timed, height):
  rows, columns = picture.displayed_size(timed)
  height = min(height, rows)
  width = max(1, round(columns * height / rows))
  return picture.Converter(path, height, width, soften=False)


def write_strips(
  project: project_lib.Project,
  segments: Iterable[project_lib.Segment],
  on_strip: Callable[[], None],
) -> None:
  """Writes the strips of one video's segments that do not exist.

  Args:
    project: Folder.
    segments: Segments of one video, by time.
    on_strip: Called after each strip.

  Raises:
    FileNotFoundError, ValueError: the video cannot be read.
  """
  missing = lambda s: not (project.folder / strip_path(project, s)).exists()
  todo = list(filter(missing, segments))
  if not todo:
    return
  when = [t for s in todo for t in times(project, s, STRIP_FRAMES)]
  source = grab(project.path(todo[0].video), when, _STRIP_HEIGHT)
  for segment in todo:
    tiles = [next(source) for _ in range(STRIP_FRAMES)]
    path = project.folder / strip_path(project, segment)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(path) as temporary:
      temporary.write_bytes(media.jpeg(np.concatenate(tiles, axis=1), 75))
    on_strip()


def write_pictures(
  project: project_lib.Project,
  segment: project_lib.Segment,
  count: int,
  folder: pathlib.Path,
) -> None:
  """Writes 01.png, 02.png, ... of a segment into a folder."""
  when = times(project, segment, count)
  frames = grab(project.path(segment.video), when, _MOST_HEIGHT)
  for number, pixels in enumerate(frames, 1):
    Image.fromarray(pixels).save(folder / f'{number:02d}.png')
