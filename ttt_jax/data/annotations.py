"""Captions of long videos: scenes, and one text for every three seconds.

An annotation file (.json with a list, .jsonl with one per line) contains
episodes in one of three forms; `data.episodes` crops them into storyboards.

    {"name": "ep01", "video": "ep01.mp4", "scenes": [
        {"start": 0, "end": 10.2, "texts": ["...", "...", "..."]}, ...]}

is this project's form: an episode with its scenes. `start` and `end` are in
seconds; both are optional if the scene is a file of its own ("video" in the
scene). The other forms are those of the paper's data:

    {"mp4": "ep01/000.mp4", "text_0": "...", "text_1": "...",
     "scene_start": [true, false], "scene_end": [false, true]}

is one video of consecutive segments (from its documents), and

    {"1": {"mp4": "ep01/video_sample_0001.mp4", "text": "...",
           "scene_start": true, "scene_end": false}, ...}

one video per segment (from its script). The segments of a folder form an
episode, ordered by the numbers in their names. "video" is a synonym of "mp4".
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
import re
from typing import Annotated, Any

import msgspec

from ttt_jax import storyboard as storyboard_lib
from ttt_jax.runtime import problems as problems_lib
from ttt_jax.runtime import schema
from ttt_jax.runtime import wording

# Advice for captions.json of `ttt-jax annotate`, which is half-written.
_EXPORT = (
  ', or press Export on annotate.html, which leaves out segments without a text'
)
_TEXT_KEY = re.compile(r'text_\d+')


@dataclasses.dataclass(frozen=True)
class VideoSpan:
  """A part of a video and the texts of its segments.

  Attributes:
    video: Path of the video.
    start: Seconds into the video.
    end: Seconds into the video; None is its end.
    texts: One text per segment.
    scenes: Index of the scene of each segment, within the episode.
    is_whole: Whether the only text describes all segments of the span.
  """

  video: str
  start: float
  end: float | None
  texts: tuple[str, ...]
  scenes: tuple[int, ...]
  is_whole: bool = False


@dataclasses.dataclass(frozen=True)
class Episode:
  """Consecutive parts of videos."""

  name: str
  spans: tuple[VideoSpan, ...]


class _SceneEntry(msgspec.Struct, forbid_unknown_fields=True):
  """A scene in this project's form."""

  texts: Annotated[list[schema.Prose], msgspec.Meta(min_length=1)]
  video: schema.Text | None = None
  start: schema.Seconds | None = None
  end: schema.Seconds | None = None


class _EpisodeEntry(msgspec.Struct, forbid_unknown_fields=True):
  """An episode in this project's form."""

  scenes: Annotated[list[Any], msgspec.Meta(min_length=1)]
  name: schema.Text | None = None
  video: schema.Text | None = None


class _VideoEntry(msgspec.Struct, forbid_unknown_fields=True):
  """A video of consecutive segments; `texts` are text_0, text_1, ..."""

  texts: list[schema.Prose]
  video: schema.Text
  name: schema.Text | None = None
  scene_start: list[bool] | None = None
  scene_end: list[bool] | None = None


class _SegmentEntry(msgspec.Struct, forbid_unknown_fields=True):
  """A video of one segment."""

  text: schema.Prose
  video: schema.Text
  scene_start: bool = False
  scene_end: bool = False


def is_annotation(value: Any) -> bool:
  """Returns whether a file's value has episodes rather than storyboards."""
  if isinstance(value, Mapping):
    if 'segments' in value or 'storyboards' in value:
      return False
    if _detect_form(value):
      return True
    value = list(value.values())
  return isinstance(value, list) and any(map(_detect_form, value))


def parse(value: Any) -> list[Episode]:
  """Validates the JSON value of an annotation file.

  Raises:
    ValueError: entries of several forms, an unknown or missing key, or a value
      that is not valid; with the number of the entry.
  """
  if isinstance(value, Mapping) and not _detect_form(value):
    items = {f'entry {key!r}': item for key, item in value.items()}
  else:
    value = [value] if isinstance(value, Mapping) else value
    items = {f'entry {i}': item for i, item in enumerate(value, 1)}
  form = next(filter(None, map(_detect_form, items.values())))
  read: Callable[[Any, str], Any] = {
    'episode': _read_episode,
    'video': _read_video,
    'segment': _read_segment,
  }[form]
  problems = problems_lib.Problems('entries are not valid')
  found = []
  for location, item in items.items():
    with problems:
      if _detect_form(item) != form:
        raise ValueError(
          f'{location} is not of the form of the others ({form}); a file has'
          ' entries of one form'
        )
      found.append(read(item, location))
  is_empty = any(f.endswith(storyboard_lib.DESCRIBE) for f in problems.found)
  problems.check(_EXPORT if is_empty and form == 'episode' else '')
  if form == 'segment':
    return _join_segments(found)
  for name, count in collections.Counter(e.name for e in found).items():
    if count > 1:
      raise ValueError(
        f'{count} episodes have the name {name!r}; give each a "name" of its'
        ' own'
      )
  return found


def _detect_form(item: Any) -> str | None:
  """Returns the form of an item by its keys; None if it is not an entry."""
  if not isinstance(item, Mapping):
    return None
  if 'vid_emb' in item:
    raise ValueError(
      'the file lists the paper\'s own precomputed tensors ("vid_emb"), which'
      ' are pickles and never read; use the captions and videos that they were'
      ' made from'
    )
  if 'scenes' in item:
    return 'episode'
  if any(map(_TEXT_KEY.fullmatch, item)):
    return 'video'
  if item.keys() & {'mp4', 'scene_start', 'scene_end'}:
    return 'segment'
  return None


def _read_episode(item: Mapping[str, Any], location: str) -> Episode:
  entry = schema.convert(item, _EpisodeEntry, location)
  spans = []
  for i, scene_item in enumerate(entry.scenes):
    scene_location = f'scene {i + 1} of {location}'
    scene = schema.convert(scene_item, _SceneEntry, scene_location)
    video = scene.video or entry.video
    if video is None:
      raise ValueError(f'{scene_location} has no "video"; name its file')
    scenes = [i] * len(scene.texts)
    span = make_span(
      video, scene.texts, scenes, scene_location, scene.start, scene.end
    )
    spans.append(span)
  return Episode(entry.name or default_name(spans[0].video), tuple(spans))


def _read_video(item: Mapping[str, Any], location: str) -> Episode:
  count = sum(map(bool, map(_TEXT_KEY.fullmatch, item)))
  keys = [f'text_{i}' for i in range(count)]
  fields = {k: v for k, v in _rename(item, location).items() if k not in keys}
  fields['texts'] = [item[key] for key in keys if key in item]
  entry = schema.convert(fields, _VideoEntry, location)
  for key, marks in (
    ('scene_start', entry.scene_start),
    ('scene_end', entry.scene_end),
  ):
    if marks is not None and len(marks) != count:
      raise ValueError(
        f'{location} has {wording.count(count, "text")}, but'
        f' {wording.count(len(marks), "value")} of "{key}"; give one per text'
      )
  no_marks = [False] * count
  scenes = _number_scenes(
    entry.scene_start or no_marks, entry.scene_end or no_marks
  )
  span = make_span(entry.video, entry.texts, scenes, location)
  return Episode(entry.name or default_name(span.video), (span,))


def _read_segment(
  item: Mapping[str, Any], location: str
) -> tuple[_SegmentEntry, VideoSpan]:
  entry = schema.convert(_rename(item, location), _SegmentEntry, location)
  return entry, make_span(entry.video, [entry.text], [0], location)


def _join_segments(
  segments: Sequence[tuple[_SegmentEntry, VideoSpan]],
) -> list[Episode]:
  """Returns one episode per folder of videos of one segment."""
  folders = collections.defaultdict(list)
  for entry, span in segments:
    folder = str(pathlib.PurePath(span.video).parent)
    folders['episode' if folder == '.' else folder].append((entry, span))
  episodes = []
  for name, parts in folders.items():
    parts.sort(key=lambda part: natural_key(part[1].video))
    scenes = _number_scenes(
      [entry.scene_start for entry, _ in parts],
      [entry.scene_end for entry, _ in parts],
    )
    spans = [
      dataclasses.replace(span, scenes=(scene,))
      for (_, span), scene in zip(parts, scenes)
    ]
    episodes.append(Episode(name, tuple(spans)))
  return episodes


def natural_key(path: str) -> list[Any]:
  """Returns a key that sorts 'sample_10' after 'sample_9'."""
  parts = re.split(r'(\d+)', path)
  return [(int(p), '') if p.isdecimal() else (-1, p) for p in parts]


def _number_scenes(starts: Sequence[bool], ends: Sequence[bool]) -> list[int]:
  """Returns the scene of each segment.

  A scene begins after a segment that ends one or at one that starts one; the
  data need not mark both.
  """
  scenes = [0]
  for is_end, is_start in zip(ends, starts[1:]):
    scenes.append(scenes[-1] + (is_end or is_start))
  return scenes


def _rename(item: Mapping[str, Any], location: str) -> dict[str, Any]:
  """Returns an entry with "video" in place of "mp4"."""
  if {'mp4', 'video'} <= item.keys():
    raise ValueError(f'{location} has both "mp4" and "video"; keep one')
  return {'video' if key == 'mp4' else key: v for key, v in item.items()}


def default_name(video: str) -> str:
  """Returns the name of a video with its folder."""
  path = pathlib.PurePath(video)
  return str(path.with_suffix('') if path.name else path)


def make_span(
  video: str,
  texts: Sequence[str],
  scenes: Sequence[int],
  location: str,
  start: float | None = None,
  end: float | None = None,
) -> VideoSpan:
  """Returns a span whose texts and times are checked as a storyboard's are."""
  fields = {'video': video, 'start': start, 'end': end}
  segments = [
    storyboard_lib.make_segment(
      {**fields, 'text': text}, f'text {i} of {location}'
    )
    for i, text in enumerate(texts, 1)
  ]
  return VideoSpan(
    video=segments[0].video or video,
    start=start or 0.0,
    end=end,
    texts=tuple(segment.text for segment in segments),
    scenes=tuple(scenes),
  )
