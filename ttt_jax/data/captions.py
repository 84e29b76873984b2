"""Captions of separate videos, in the files of other trainers.

    {"video": "a.mp4", "text": "A cat sleeps."}      a line or an item per video
    video,text                                       a table (.csv, .tsv)
    prompts.txt with videos.txt next to it           a line per video
    FOLDER with a.txt for a.mp4, or one of the files above

Each video is an episode of its own, and its text describes all of its
segments. `VIDEO_KEYS` and `TEXT_KEYS` are the names of the two columns; "name",
"start" and "end" (in seconds) are optional, other columns are ignored.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
import csv
import dataclasses
import io
import os
import pathlib
import re
from typing import Any

import msgspec

from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import annotations as annotations_lib
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import problems as problems_lib
from ttt_jax.runtime import schema
from ttt_jax.runtime import wording

VIDEO_KEYS = (
  'video',
  'mp4',
  'file_name',
  'filename',
  'path',
  'file_path',
  'filepath',
  'video_path',
  'video_file',
  'video_name',
  'media_path',
)
TEXT_KEYS = ('text', 'caption', 'prompt', 'cap', 'short_prompt')
# Keys that select a part of a video in other units.
_UNSUPPORTED = ('cut', 'crop', 'start_frame', 'end_frame')
# Keys of items that belong together.
_JOINS = {
  *('segments', 'scenes', 'scene', 'scene_start', 'scene_end'),
  *('shot', 'repeat', 'requires_scene_transition'),
}

_METADATA = ('metadata.jsonl', 'metadata.csv')
_PROMPTS = ('prompts.txt', 'prompt.txt', 'captions.txt')
_VIDEOS = 'videos.txt'
VIDEO_SUFFIXES = {
  *('.avi', '.flv', '.gif', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg'),
  *('.ts', '.webm', '.wmv'),
}


class _Row(msgspec.Struct):
  """The caption of a video."""

  video: schema.Text
  text: schema.Prose
  name: schema.Text | None = None
  start: schema.Seconds | None = None
  end: schema.Seconds | None = None


def read_file(
  path: str | os.PathLike[str], videos_dir: str
) -> tuple[Any, bool]:
  """Reads a file, or folder, of captions, annotations or storyboards.

  Args:
    path: Path of `files.read_json`, or of a form above.
    videos_dir: Folder of the videos; may begin with 'package:'.

  Returns:
    The value of the JSON, or a list of rows, and whether it has a line or a
    row per item.

  Raises:
    FileNotFoundError, ValueError: as `files.read_json`, or texts and videos
      do not correspond.
  """
  path = paths.resolve(path)
  if path.is_dir():
    for name in (*_METADATA, *_PROMPTS):
      if (path / name).is_file():
        return read_file(path / name, videos_dir)
    return _read_texts(path, paths.resolve(videos_dir)), True
  suffix = path.suffix.lower()
  if suffix == '.txt':
    return _read_prompts(path), True
  if suffix in ('.csv', '.tsv'):
    return _read_table(path), True
  return files.read_json(path), suffix in files.LINE_SUFFIXES


def _read_table(path: pathlib.Path) -> list[dict[str, str]]:
  text = files.read_text(path)
  header = text.partition('\n')[0]
  reader = csv.DictReader(
    io.StringIO(text, newline=''),
    delimiter=max(',\t;', key=header.count),
    skipinitialspace=True,
    strict=True,
  )
  rows = []
  try:
    for row in reader:
      if None in row or None in row.values():
        raise ValueError(
          f'{path}, line {reader.line_num}: the number of columns is not that'
          f' of the first line; put texts that contain commas in quotes'
        )
      rows.append(row)
  except csv.Error as e:
    raise ValueError(f'{path}, line {reader.line_num}: {e}') from e
  names = [name.strip().lower() for name in reader.fieldnames or ()]
  if repeated := [name for name in set(names) if names.count(name) > 1]:
    raise ValueError(f'{path} has several columns {repeated[0]!r}; keep one')
  if not rows or not _is_row(rows[0]):
    raise ValueError(
      f'{path} has no captions; its first line must name the columns, one of'
      f' {", ".join(VIDEO_KEYS)} and one of {", ".join(TEXT_KEYS)}'
    )
  return rows


def _read_prompts(path: pathlib.Path) -> list[dict[str, str]]:
  """Returns the rows of a file of texts and videos.txt, or of one of them."""
  videos = path.with_name(_VIDEOS)
  if path == videos:
    found = [p for name in _PROMPTS if (p := path.with_name(name)).is_file()]
    path = found[0] if found else path.with_name(_PROMPTS[0])
  lines = []
  for part in (path, videos):
    if not part.is_file():
      raise FileNotFoundError(
        f'{part} does not exist; a file with a text per line needs {_VIDEOS},'
        ' with a video per line, next to it'
      )
    lines.append(re.split(r'\r?\n', files.read_text(part).rstrip()))
  texts, names = lines
  if len(texts) != len(names):
    raise ValueError(
      f'{path} has {len(texts)} lines, but {videos} has {len(names)}; give one'
      ' per video'
    )
  return [{'video': v.strip(), 'text': t} for v, t in zip(names, texts)]


def _read_texts(
  folder: pathlib.Path, videos: pathlib.Path
) -> list[dict[str, str]]:
  """Returns the rows of a folder with a text file per video."""
  names = [
    p.relative_to(videos)
    for p in videos.rglob('*')
    if p.suffix.lower() in VIDEO_SUFFIXES
  ]
  names.sort(key=lambda name: annotations_lib.natural_key(str(name)))
  rows, missing = [], []
  for name in names:
    path = folder / name.with_suffix('.txt')
    if path.is_file():
      text = ' '.join(files.read_text(path).split())
      rows.append({'video': name.as_posix(), 'text': text})
    else:
      missing.append(name.as_posix())
  if not rows:
    raise ValueError(
      f'{folder} has no captions of {wording.count(len(names), "video")} in'
      f' {videos};'
      f' expected {", ".join(_METADATA)}, {_PROMPTS[0]} with {_VIDEOS}, or a'
      ' text file for each video, for example a.txt for a.mp4'
    )
  if missing:
    raise ValueError(
      f'{len(missing)} of {len(names)} videos have no text file in {folder}:'
      f' {files.first_ten(missing)}; write them or move the videos away'
    )
  return rows


def are_captions(value: Any, is_rows: bool) -> bool:
  """Returns whether a value of `read_file` has a text for each video.

  Rows that refer to each other, by a scene for example, are a storyboard or
  annotations, and so is a list of {"text", "video", "start"}.
  """
  if not isinstance(value, list):
    return False
  rows = list(filter(_is_row, value))
  if not rows or len(rows) < len(value) and not is_rows:
    return False
  if any(_JOINS & row.keys() for row in rows):
    return False
  is_other = any(not {'text', 'video'} <= row.keys() for row in rows)
  return is_rows or is_other or storyboard_lib.are_captions(value, is_rows)


def parse(value: Iterable[Any]) -> list[annotations_lib.Episode]:
  """Validates captions; further captions of a video have a number.

  Raises:
    ValueError: missing, repeated or invalid values, of up to ten entries.
  """
  problems = problems_lib.Problems('entries are not valid')
  episodes = []
  counts: collections.Counter[str] = collections.Counter()
  for i, item in enumerate(value, 1):
    with problems:
      episode = _read_row(item, f'entry {i}')
      counts[episode.name] += 1
      if (count := counts[episode.name]) > 1:
        name = f'{episode.name} ({count})'
        episode = dataclasses.replace(episode, name=name)
      episodes.append(episode)
  problems.check()
  return episodes


def _read_row(item: Any, location: str) -> annotations_lib.Episode:
  if not isinstance(item, Mapping):
    raise ValueError(f'{location} is not an object with a video and a text')
  item = {k: v for k, v in item.items() if v not in (None, '', [])}
  for key in _UNSUPPORTED:
    if _find(item, [key]):
      raise ValueError(
        f'{location} has "{key}", which is not supported; give the part of the'
        ' video as "start" and "end" in seconds'
      )
  fields = _find(item, ('name', 'start', 'end'))
  for field, keys in (('video', VIDEO_KEYS), ('text', TEXT_KEYS)):
    found = _find(item, keys)
    if len(found) != 1:
      raise ValueError(
        f'{location} names its {field} {len(found)} times'
        f' ({", ".join(found)}); expected one of {", ".join(keys)}'
      )
    (value,) = found.values()
    if isinstance(value, list) and len(value) == 1:
      (value,) = value
    fields[field] = value.strip() if isinstance(value, str) else value
  row = schema.convert(fields, _Row, location, strict=False)
  span = annotations_lib.make_span(
    row.video, [row.text], [0], location, row.start, row.end
  )
  span = dataclasses.replace(span, is_whole=True)
  name = row.name or annotations_lib.default_name(span.video)
  return annotations_lib.Episode(name, (span,))


def _is_row(item: Any) -> bool:
  return isinstance(item, Mapping) and bool(
    _find(item, VIDEO_KEYS) and _find(item, TEXT_KEYS)
  )


def _find(row: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
  """Returns the values under `keys`, which may be in capitals in the row."""
  names = {name.strip().lower(): name for name in row}
  return {k: row[names[k]] for k in keys if k in names}
