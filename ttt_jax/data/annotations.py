"""Captions of long videos: which scenes they have, one text for every 3 s.

An annotation file (.json with a list, .jsonl with one a line) holds episodes
in one of three forms; `data.episodes` cuts them into storyboards.

    {"name": "ep01", "video": "ep01.mp4", "scenes": [
        {"start": 0, "end": 10.2, "texts": ["...", "...", "..."]}, ...]}

is ours: an episode with its scenes. `start` and `end` are seconds and may be
left out where a scene is a file of its own ("video" in the scene). The two
others are those of the paper's data:

    {"mp4": "ep01/000.mp4", "text_0": "...", "text_1": "...",
     "scene_start": [true, false], "scene_end": [false, true]}

one video of consecutive 3 s segments (its docs), and

    {"1": {"mp4": "ep01/video_sample_0001.mp4", "text": "...",
           "scene_start": true, "scene_end": false}, ...}

one video a segment (its script): the segments of a folder are an episode, in
the order of the numbers in their names. "video" may stand for "mp4".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import re
from typing import Any, NamedTuple

from ttt_jax import storyboard as segment_lib

_EPISODE_KEYS = ('name', 'video', 'scenes')
_SCENE_KEYS = ('video', 'start', 'end', 'texts')
_MARKS = ('scene_start', 'scene_end')
_PAPER_KEYS = ('name', 'mp4', 'video', *_MARKS)
_NUMBERED = re.compile(r'text_(\d+)')


@dataclasses.dataclass(frozen=True)
class Stretch:
  """A part of one video and the texts of its segments.

  Attributes:
    video: path.
    start: seconds into it.
    end: seconds into it; None is its end.
    texts: one a segment.
    scenes: number of the scene of each segment, within the episode.
  """

  video: str
  start: float
  end: float | None
  texts: tuple[str, ...]
  scenes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Episode:
  """Stretches that follow each other."""

  name: str
  stretches: tuple[Stretch, ...]


class _Piece(NamedTuple):
  """One segment of an episode, and whether a scene starts or ends with it."""

  episode: str
  stretch: Stretch
  starts: bool
  ends: bool


def is_annotation(value: Any) -> bool:
  """Whether a file's value holds episodes rather than storyboards."""
  if isinstance(value, Mapping):
    if 'segments' in value or 'storyboards' in value:
      return False
    if _kind(value):
      return True
    value = list(value.values())
  return isinstance(value, list) and any(map(_kind, value))


def _kind(item: Any) -> str | None:
  """Which form an item has, by its keys."""
  if not isinstance(item, Mapping):
    return None
  if 'vid_emb' in item:
    raise ValueError(
      'the file lists the paper\'s own precomputed tensors ("vid_emb"), which'
      ' are pickles and never read; give it the captions and videos that'
      ' they were made from'
    )
  if 'scenes' in item:
    return 'episode'
  if any(map(_NUMBERED.fullmatch, item)):
    return 'video'
  if 'mp4' in item or any(mark in item for mark in _MARKS):
    return 'segment'
  return None


def parse(value: Any) -> list[Episode]:
  """Validates what `json.load` gives for an annotation file.

  Raises:
    ValueError: forms that are mixed, a key that is not legal or is missing,
      or a value of the wrong kind; with the number of the entry.
  """
  if isinstance(value, Mapping) and not _kind(value):
    items = {f'entry {key!r}': item for key, item in value.items()}
  else:
    value = [value] if isinstance(value, Mapping) else value
    items = {f'entry {i}': item for i, item in enumerate(value, 1)}
  first = next(filter(None, map(_kind, items.values())))
  for where, item in items.items():
    if _kind(item) != first:
      raise ValueError(
        f'{where} is no {first} as the others are; a file holds entries of'
        ' one form'
      )
  if first == 'segment':
    return _join([_piece(item, where) for where, item in items.items()])
  read = {'episode': _episode, 'video': _video}[first]
  return _named_apart([read(item, where) for where, item in items.items()])


def _episode(item: Mapping[str, Any], where: str) -> Episode:
  """Our form."""
  segment_lib.check_keys(item, _EPISODE_KEYS, where)
  scenes = item['scenes']
  if not isinstance(scenes, list) or not scenes:
    raise ValueError(f'{where} has no scenes; "scenes" must be a list of them')
  stretches = []
  for i, scene in enumerate(scenes):
    place = f'scene {i + 1} of {where}'
    if not isinstance(scene, Mapping):
      raise ValueError(
        f'{place} is {segment_lib.kind_of(scene)}; it must be an object with'
        ' "texts"'
      )
    segment_lib.check_keys(scene, _SCENE_KEYS, place)
    texts = scene.get('texts')
    if not isinstance(texts, list) or not texts:
      raise ValueError(
        f'{place} has no texts; "texts" must be a list, one for every 3 s'
      )
    video = scene.get('video', item.get('video'))
    stretches.append(
      _stretch(
        video,
        scene.get('start'),
        scene.get('end'),
        texts,
        [i] * len(texts),
        place,
      )
    )
  return Episode(_name(item, stretches[0].video, where), tuple(stretches))


def _video(item: Mapping[str, Any], where: str) -> Episode:
  """The form of the paper's docs: text_0, text_1, ... of one video."""
  numbers = [int(m[1]) for m in map(_NUMBERED.fullmatch, item) if m]
  legal = tuple(f'text_{i}' for i in range(len(numbers)))
  segment_lib.check_keys(item, (*legal, *_PAPER_KEYS), where)
  texts = [item[key] for key in legal]
  stretch = _stretch(
    _path(item, where),
    None,
    None,
    texts,
    _labels(item, len(texts), where),
    where,
  )
  return Episode(_name(item, stretch.video, where), (stretch,))


def _piece(item: Mapping[str, Any], where: str) -> _Piece:
  """The form of the paper's script: one text and one video."""
  segment_lib.check_keys(item, ('text', 'mp4', 'video', *_MARKS), where)
  marks = [item.get(mark, False) for mark in _MARKS]
  for mark, value in zip(_MARKS, marks):
    if type(value) is not bool:
      raise ValueError(
        f'{where} has "{mark}": {value!r}; it must be true or false'
      )
  stretch = _stretch(
    _path(item, where), None, None, [item.get('text')], [0], where
  )
  folder = str(pathlib.PurePath(stretch.video).parent)
  return _Piece('episode' if folder == '.' else folder, stretch, *marks)


def _join(pieces: Sequence[_Piece]) -> list[Episode]:
  """Episodes of their pieces, ordered by the numbers in the videos' names."""
  episodes: dict[str, list[_Piece]] = {}
  for piece in pieces:
    episodes.setdefault(piece.episode, []).append(piece)
  out = []
  for name, parts in episodes.items():
    parts.sort(key=lambda p: _natural(p.stretch.video))
    scenes = _scenes([p.starts for p in parts], [p.ends for p in parts])
    stretches = [
      dataclasses.replace(p.stretch, scenes=(scene,))
      for p, scene in zip(parts, scenes)
    ]
    out.append(Episode(name, tuple(stretches)))
  return out


def _natural(path: str) -> list[Any]:
  """Sorts 'sample_10' behind 'sample_9'."""
  parts = re.split(r'(\d+)', path)
  return [(int(p), '') if p.isdigit() else (-1, p) for p in parts]


def _labels(item: Mapping[str, Any], count: int, where: str) -> list[int]:
  """Scene of each segment, from the two lists of marks of an entry."""
  marks = []
  for mark in _MARKS:
    value = item.get(mark, [False] * count)
    if not isinstance(value, list) or any(type(v) is not bool for v in value):
      raise ValueError(
        f'{where} has "{mark}": {value!r}; it must be a list of true and false'
      )
    if len(value) != count:
      raise ValueError(
        f'{where} has {count} texts, but {len(value)} values of "{mark}"; it'
        ' needs one a text'
      )
    marks.append(value)
  return _scenes(*marks)


def _scenes(starts: Sequence[bool], ends: Sequence[bool]) -> list[int]:
  """Scene of each segment: a new one where one ends or the next one starts.

  That both are marked is not asked for.
  """
  scenes = [0]
  for ended, started in zip(ends, starts[1:]):
    scenes.append(scenes[-1] + (ended or started))
  return scenes


def _path(item: Mapping[str, Any], where: str) -> Any:
  if ('mp4' in item) == ('video' in item):
    raise ValueError(
      f'{where} must name its video once, for example "mp4": "ep01/000.mp4"'
    )
  return item.get('mp4', item.get('video'))


def _stretch(
  video: Any,
  start: Any,
  end: Any,
  texts: Sequence[Any],
  scenes: Sequence[int],
  where: str,
) -> Stretch:
  """Checks what a storyboard would check of the same fields."""
  if video is None:
    raise ValueError(f'{where} has no "video"; name its file')
  segments = [
    segment_lib.make_segment(
      {'text': text, 'video': video, 'start': start, 'end': end},
      f'text {i} of {where}',
    )
    for i, text in enumerate(texts, 1)
  ]
  return Stretch(
    video,
    segments[0].start or 0.0,
    segments[0].end,
    tuple(s.text for s in segments),
    tuple(scenes),
  )


def _name(item: Mapping[str, Any], video: str, where: str) -> str:
  """The given name, or that of the (first) video, with its folder."""
  name = item.get('name', str(pathlib.PurePath(video).with_suffix('')))
  if not isinstance(name, str) or not name:
    raise ValueError(f'the name of {where} is {name!r}; it must be a text')
  return name


def _named_apart(episodes: list[Episode]) -> list[Episode]:
  seen = set()
  for episode in episodes:
    if episode.name in seen:
      raise ValueError(
        f'two episodes have the name {episode.name!r}; give each a "name" of'
        ' its own'
      )
    seen.add(episode.name)
  return episodes
