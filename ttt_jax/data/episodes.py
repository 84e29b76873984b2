"""Long videos and their captions to clips of the length of a stage.

Scenes are cropped around their middle to a multiple of a segment and follow
each other in the order of the episode (in the paper, 10 s lose half a second
at both ends; less than 2 s is left out). The last segment of a scene may be
short by up to a third, as that of a scene of 2 to 3 s is: its last frame is
then repeated. Clips begin at segment boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import os

from ttt_jax import geometry as geometry_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import annotations as annotations_lib
from ttt_jax.data import captions as captions_lib
from ttt_jax.data import shots
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import problems as problems_lib
from ttt_jax.runtime import wording
from ttt_jax.video import video_file

_MAX_SEGMENTS = 20_000  # 17 hours; the header of a longer video is damaged.


@dataclasses.dataclass(frozen=True)
class ClipSet:
  """Clips, and the captions that are in none of them.

  Attributes:
    clips: Storyboards of a stage's length.
    segments: Number of segments of all sources.
    unused: Number of segments that are in no clip, for example at the end of
      an episode.
    too_short: Names of the scenes that are too short for one segment.
  """

  clips: tuple[storyboard_lib.Storyboard, ...]
  segments: int
  unused: int
  too_short: tuple[str, ...] = ()

  def summary(self) -> list[str]:
    """Returns the numbers as lines for the user."""
    clips = wording.count(len(self.clips), 'clip')
    out = [f'{wording.count(self.segments, "segment", "makes")} {clips}']
    if self.unused:
      out.append(wording.count(self.unused, 'segment', 'is in no clip'))
    if self.too_short:
      scenes = wording.count(len(self.too_short), 'scene', 'is')
      out.append(
        f'{scenes} too short for a segment: {files.first_ten(self.too_short)}'
      )
    return out


def read_clips(
  path: str | os.PathLike[str],
  videos_dir: str,
  geometry: geometry_lib.Geometry,
  stride: int = 0,
) -> ClipSet:
  """Reads storyboards, annotations or captions and crops them into clips.

  Args:
    path: File or folder, see `storyboard`, `annotations` and `captions`.
    videos_dir: Folder of the videos; may begin with 'package:'. If a scene has
      no "end", the header of its video is read.
    geometry: Geometry of a clip.
    stride: Segments between the beginnings of two clips of one source; 0 is
      the length of a clip, so that clips do not overlap.

  Raises:
    FileNotFoundError: the file or a video does not exist.
    ValueError: the file is not valid, captions do not fit their scenes, or no
      source is as long as a clip.
  """
  path = paths.resolve(
    path, 'a file of captions with --config.data.storyboards=FILE'
  )
  value, is_rows = captions_lib.read_file(path, videos_dir)
  too_short: list[str] = []
  try:
    parse = None
    if captions_lib.are_captions(value, is_rows):
      parse = captions_lib.parse
    elif annotations_lib.is_annotation(value):
      parse = annotations_lib.parse
    if parse:
      boards = _crop_episodes(parse(value), videos_dir, geometry, too_short)
    else:
      boards = storyboard_lib.parse_storyboards(value, path.stem, is_rows)
  except ValueError as e:
    raise ValueError(f'{path}: {e}') from e
  clips_by_board = [split_into_clips(b, geometry, stride) for b in boards]
  clips = [clip for clips in clips_by_board for clip in clips]
  if not clips:
    longest = max(boards, key=lambda b: len(b.segments), default=None)
    found = (
      f'the longest, {longest.name!r}, has'
      f' {wording.count(len(longest.segments), "segment")}'
      if longest
      else wording.count(len(too_short), 'scene', 'is too short')
    )
    seconds = shots.segment_seconds(geometry)
    hint = (
      ', or join the videos of an episode by {"segments": [...]}'
      if parse is captions_lib.parse
      else ''
    )
    raise ValueError(
      f'{path} makes no clip of {wording.count(geometry.segments, "segment")}'
      f' ({geometry.segments * seconds:g} s): {found}; set'
      ' config.data.seconds to an available length, for example'
      f' {seconds * (len(longest.segments) if longest else 1):g}{hint}'
    )
  total = sum(len(b.segments) for b in boards)
  length = geometry.segments
  added = min(stride or length, length)  # Segments that the next clip adds.
  used = sum(
    (len(clips) - 1) * added + length for clips in clips_by_board if clips
  )
  return ClipSet(tuple(clips), total, total - used, tuple(too_short))


def split_into_clips(
  board: storyboard_lib.Storyboard,
  geometry: geometry_lib.Geometry,
  stride: int = 0,
) -> list[storyboard_lib.Storyboard]:
  """Returns the clips of a storyboard, each of `geometry.segments`.

  A storyboard of that length keeps its name; the clips of a longer one are
  named by their beginning, 'NAME@9s'.
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


def _crop_episodes(
  episodes: Sequence[annotations_lib.Episode],
  videos_dir: str,
  geometry: geometry_lib.Geometry,
  too_short: list[str],
) -> list[storyboard_lib.Storyboard]:
  """Crops all scenes; appends the names of short ones to `too_short`."""
  spans = [span for episode in episodes for span in episode.spans]
  shots.check_videos([s.video for s in spans if s.end is None], videos_dir)
  duration = functools.cache(lambda name: _duration(name, videos_dir, geometry))
  problems = problems_lib.Problems('scenes do not fit their texts')
  boards = []
  for episode in episodes:
    segments: list[storyboard_lib.Segment] = []
    for span in episode.spans:
      end = duration(span.video) if span.end is None else span.end
      with problems:
        cropped = crop_to_segments(span, end, geometry, episode.name)
        if not cropped:
          too_short.append(f'{span.video} from {span.start:g} s')
        segments += cropped
    if segments:
      boards.append(storyboard_lib.Storyboard(episode.name, tuple(segments)))
  problems.check()
  return boards


def _duration(
  name: str, videos_dir: str, geometry: geometry_lib.Geometry
) -> float | None:
  """Returns a video's seconds; None if it cannot be read."""
  path = shots.resolve(name, videos_dir)
  try:
    info = video_file.probe(path)
  except (ValueError, OSError):
    return None
  return info.seconds or info.frames / geometry.fps


def crop_to_segments(
  span: annotations_lib.VideoSpan,
  end: float | None,
  geometry: geometry_lib.Geometry,
  episode: str,
) -> list[storyboard_lib.Segment]:
  """Returns the segments of a span, [] if it is too short for one.

  A span whose video is damaged, or shorter than its texts, is not cropped:
  reading its frames reports the problem and leaves its clips out.

  Raises:
    ValueError: the span is longer or shorter than its texts.
  """
  unit = shots.segment_frames(geometry)
  texts, scenes = span.texts, span.scenes
  begin, stop = span.start, None
  if end is not None:
    # Times are rounded: a thousandth of a frame is tolerated.
    frames = int((end - span.start) * geometry.fps + 1e-3)
    if span.is_whole:  # One missing frame at the end is held.
      count = min(max(1, (frames + 1) // unit), _MAX_SEGMENTS)
      texts, scenes = texts * count, scenes * count
    count = len(texts)
    is_short = frames < count * unit - unit // 3
    if is_short and count == 1:
      return []
    if frames >= (count + 1) * unit or (is_short and span.end is not None):
      raise ValueError(
        f'{episode}: {span.video} from {span.start:g} to {end:g} s makes'
        f' {wording.count(frames // unit, "segment")} of'
        f' {unit / geometry.fps:g} s, but has {wording.count(count, "text")}'
      )
    if not is_short:
      # A clip that begins with this span shows one frame more.
      offset = max(0, frames - count * unit - 1) // 2
      begin += offset / geometry.fps
      stop = begin + min(frames - offset, count * unit + 1) / geometry.fps
  seconds = unit / geometry.fps
  return [
    storyboard_lib.Segment(
      text,
      scene=scene,
      video=span.video,
      start=begin + i * seconds,
      end=stop,
    )
    for i, (text, scene) in enumerate(zip(texts, scenes))
  ]
