"""Long videos and their captions to clips of a stage's length.

Scenes are cropped to whole segments around their middle and follow each other
in an episode's order (the paper: 10 s lose half a second at both ends; less
than 2 s is left out). A scene may be up to a third short of its last segment,
as one of 2 to 3 s is: its last frame then stands still. Clips begin at segment
boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import os

from ttt_jax import geometry as geometry_lib
from ttt_jax import storyboard as segment_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import annotations
from ttt_jax.data import shots
from ttt_jax.runtime import json_file
from ttt_jax.runtime import paths
from ttt_jax.video import video_file

_SHOWN = 3  # of a list of problems, in a message


@dataclasses.dataclass(frozen=True)
class Cut:
  """Clips, and what of the captions is in none of them.

  Attributes:
    clips: storyboards of a stage's length.
    segments: of all sources together.
    unused: segments that are in no clip, as at the end of an episode.
    too_short: names of the scenes that are too short for one segment.
  """

  clips: tuple[storyboard_lib.Storyboard, ...]
  segments: int
  unused: int
  too_short: tuple[str, ...] = ()

  def lines(self) -> list[str]:
    """What to tell the user."""
    out = [f'{self.segments} segments make {len(self.clips)} clips']
    if self.unused:
      out.append(f'{self.unused} segments are in no clip')
    if self.too_short:
      out.append(
        f'{len(self.too_short)} scenes are too short for a segment:'
        f' {_some(self.too_short)}'
      )
    return out


def read_clips(
  path: str | os.PathLike[str],
  videos_dir: str,
  geometry: geometry_lib.Geometry,
  stride: int = 0,
) -> Cut:
  """Reads a file of storyboards or annotations and cuts it into clips.

  Args:
    path: JSON or JSONL, see `storyboard` and `annotations`.
    videos_dir: folder, also 'package:...', of the videos. Of a scene without
      an "end" the header of its video is read.
    geometry: of a clip.
    stride: segments between the beginnings of two clips of one source; 0 is
      a clip's length, so that clips do not overlap.

  Raises:
    FileNotFoundError: no such file, or no such video.
    ValueError: not such a file, captions that do not fit their scenes, or no
      source as long as a clip.
  """
  value = json_file.read(path)
  path = paths.resolve(path)
  too_short: list[str] = []
  try:
    if annotations.is_annotation(value):
      boards = _storyboards(
        annotations.parse(value), videos_dir, geometry, too_short
      )
    else:
      boards = storyboard_lib.parse_storyboards(value, path.stem)
  except ValueError as e:
    raise ValueError(f'{path}: {e}') from e
  cuts = [cut(board, geometry, stride) for board in boards]
  clips = [clip for clips in cuts for clip in clips]
  if not clips:
    longest = max(boards, key=lambda b: len(b.segments), default=None)
    found = (
      f'the longest, {longest.name!r}, has {len(longest.segments)} segments'
      if longest
      else f'all {len(too_short)} scenes are too short'
    )
    seconds = shots.segment_seconds(geometry)
    raise ValueError(
      f'{path} makes no clip of {geometry.segments} segments'
      f' ({geometry.segments * seconds:g} s): {found}; set'
      ' config.data.seconds to a length that is there, for example'
      f' {seconds * (len(longest.segments) if longest else 1):g}'
    )
  total = sum(len(b.segments) for b in boards)
  length = geometry.segments
  fresh = min(stride or length, length)  # segments that a further clip adds
  used = 0
  for count in filter(None, map(len, cuts)):
    used += (count - 1) * fresh + length
  return Cut(tuple(clips), total, total - used, tuple(too_short))


def cut(
  board: storyboard_lib.Storyboard,
  geometry: geometry_lib.Geometry,
  stride: int = 0,
) -> list[storyboard_lib.Storyboard]:
  """The clips of a storyboard: all of `geometry.segments`, at boundaries.

  One that is a clip keeps its name; the clips of a longer one are named by
  their beginning, 'NAME@9s'.
  """
  if stride < 0:
    raise ValueError(f'a stride of {stride} segments; it must be 0 or more')
  length = geometry.segments
  if len(board.segments) == length:
    return [board]
  seconds = shots.segment_seconds(geometry)
  return [
    storyboard_lib.Storyboard(
      f'{board.name}@{first * seconds:g}s',
      board.segments[first : first + length],
    )
    for first in range(0, len(board.segments) - length + 1, stride or length)
  ]


def _storyboards(
  episodes: Sequence[annotations.Episode],
  videos_dir: str,
  geometry: geometry_lib.Geometry,
  too_short: list[str],
) -> list[storyboard_lib.Storyboard]:
  """Crops all scenes; names those that are too short in `too_short`."""
  seconds_of = functools.cache(lambda name: _seconds(name, videos_dir))
  wrong = []
  boards = []
  for episode in episodes:
    segments: list[segment_lib.Segment] = []
    for stretch in episode.stretches:
      end = stretch.end
      if end is None:
        end = seconds_of(stretch.video)
      try:
        cropped = _crop(stretch, end, geometry)
      except ValueError as e:
        wrong.append(f'{episode.name}: {e}')
        continue
      if not cropped:
        too_short.append(f'{stretch.video} from {stretch.start:g} s')
      segments += cropped
    if segments:
      boards.append(storyboard_lib.Storyboard(episode.name, tuple(segments)))
  if wrong:
    raise ValueError(
      f'{len(wrong)} scenes do not fit their texts: {_some(wrong, "; ")}'
    )
  return boards


def _seconds(name: str, videos_dir: str) -> float | None:
  """How long a video is; None if it cannot be read or does not say."""
  path = shots.resolve(name, videos_dir)
  try:
    return video_file.probe(path).seconds or None
  except ValueError:
    return None


def _crop(
  stretch: annotations.Stretch,
  end: float | None,
  geometry: geometry_lib.Geometry,
) -> list[segment_lib.Segment]:
  """The segments of a stretch, [] if it is too short for one.

  A stretch whose video is damaged, or shorter than its texts, is not cropped:
  reading it will say what is wrong, and leave its clips out.

  Raises:
    ValueError: it lasts longer or shorter than its texts.
  """
  unit = shots.segment_frames(geometry)
  count = len(stretch.texts)
  begin, stop = stretch.start, None
  if end is not None:
    # Times are rounded, a thousandth of a frame is none.
    frames = int((end - stretch.start) * geometry.fps + 1e-3)
    is_short = frames < count * unit - unit // 3
    if is_short and count == 1:
      return []
    if frames >= (count + 1) * unit or (is_short and stretch.end is not None):
      raise ValueError(
        f'{stretch.video} from {stretch.start:g} to {end:g} s makes'
        f' {frames // unit} segments of {unit / geometry.fps:g} s, but has'
        f' {count} texts'
      )
    if not is_short:
      # A clip that begins with this stretch shows one frame more.
      offset = max(0, frames - count * unit - 1) // 2
      begin += offset / geometry.fps
      stop = begin + min(frames - offset, count * unit + 1) / geometry.fps
  seconds = unit / geometry.fps
  return [
    segment_lib.Segment(
      text,
      scene=scene,
      video=stretch.video,
      start=begin + i * seconds,
      end=stop,
    )
    for i, (text, scene) in enumerate(zip(stretch.texts, stretch.scenes))
  ]


def _some(items: Sequence[str], separator: str = ', ') -> str:
  """The first few."""
  more = f'{separator}...' if len(items) > _SHOWN else ''
  return separator.join(items[:_SHOWN]) + more
