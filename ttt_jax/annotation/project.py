"""The folder of an annotation: cuts of the videos, and captions with texts.

    OUT/scenes.json       cuts of every video; may be edited
    OUT/captions.json     scenes of complete segments and their texts, which
                          precompute reads once no text is empty
    OUT/frames/           a strip of frames for each segment
    OUT/annotate.html     the page

A text belongs to a video and a time. If cuts change, it stays with the segment
that shows at least half of its time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any
import uuid

import msgspec

from ttt_jax import geometry as geometry_lib
from ttt_jax.annotation import scenes as scenes_lib
from ttt_jax.data import annotations as annotations_lib
from ttt_jax.data import episodes
from ttt_jax.data import shots
from ttt_jax.runtime import files
from ttt_jax.runtime import schema

SCENES, CAPTIONS = 'scenes.json', 'captions.json'
UNPLACED = 'captions.unplaced.json'
_LONGEST = 24 * 3600.0  # Seconds; a longer video is damaged.
_DIGITS = 6  # Of times; precompute tolerates a thousandth of a frame.


@dataclasses.dataclass
class Segment:
  """A segment that needs a text.

  Attributes:
    video: Name of the video, relative to the folder of the videos.
    scene: Number of the scene in the video, from 0.
    start: Seconds into the video.
    stop: Seconds into the video at which the scene ends, or one frame after
      its last segment.
    text: Text; '' if it has none.
  """

  video: str
  scene: int
  start: float
  stop: float
  text: str = ''


class _Episode(msgspec.Struct, forbid_unknown_fields=True):
  """Cuts of a video, and the settings with which they were found."""

  seconds: schema.Seconds
  cuts: list[schema.Seconds]
  size: int
  threshold: float
  shortest: float


class _Index(msgspec.Struct, forbid_unknown_fields=True):
  """Content of scenes.json."""

  id: str
  videos: str
  episodes: dict[str, _Episode] = {}


class _Scene(msgspec.Struct):
  texts: list[str]
  start: schema.Seconds = 0.0
  end: schema.Seconds | None = None


class _Captions(msgspec.Struct):
  """An episode of captions.json, whose texts may be empty."""

  video: schema.Text
  scenes: list[_Scene]
  name: str | None = None


class Project:
  """The folder of an annotation.

  Attributes:
    folder: Folder.
    videos: Folder of the videos.
    id: Text that is different for every folder.
    too_short: (video, start, end) of scenes that are too short for a segment.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    geometry: geometry_lib.Geometry,
    videos: pathlib.Path,
  ):
    """Opens a folder, which need not exist.

    Args:
      folder: Folder.
      geometry: Geometry with the length of a segment and the frames per second.
      videos: Folder of the videos, for a new folder.

    Raises:
      ValueError: a file of the folder was damaged.
    """
    self.folder, self._geometry = folder, geometry
    self.too_short: list[tuple[str, float, float]] = []
    self._index = _Index(uuid.uuid4().hex[:12], str(videos.resolve()))
    path = folder / SCENES
    if path.exists():
      value = files.read_json(path)
      self._index = schema.convert(value, _Index, str(path))
    # Damage is reported before the long work.
    self._texts = self._read_texts()

  @property
  def videos(self) -> pathlib.Path:
    return pathlib.Path(self._index.videos)

  @property
  def id(self) -> str:
    return self._index.id

  @property
  def seconds(self) -> float:
    """Duration of a segment."""
    return shots.segment_seconds(self._geometry)

  @property
  def fps(self) -> float:
    """Frames per second of the segments."""
    return self._geometry.fps

  def end(self, segment: Segment) -> float:
    """Returns when a segment ends; precompute repeats its last frame then."""
    return min(segment.stop, segment.start + self.seconds)

  def name(self, path: pathlib.Path) -> str:
    """Returns the name of a video: relative to `videos`, or absolute."""
    path = path.resolve()
    if path.is_relative_to(self.videos):
      return path.relative_to(self.videos).as_posix()
    return path.as_posix()

  def path(self, name: str) -> pathlib.Path:
    """Returns the path of a video."""
    return self.videos / name

  def is_cut(self, name: str, threshold: float, shortest: float) -> bool:
    """Returns whether cuts of a video were found with these values."""
    found = self._index.episodes.get(name)
    return found is not None and (
      found.size,
      found.threshold,
      found.shortest,
    ) == (
      _size(self.path(name)),
      threshold,
      shortest,
    )

  def set_cuts(
    self, name: str, cuts: scenes_lib.Cuts, threshold: float, shortest: float
  ) -> None:
    """Stores the cuts of a video."""
    self._index.episodes[name] = _Episode(
      round(cuts.seconds, _DIGITS),
      [round(t, _DIGITS) for t in cuts.times],
      _size(self.path(name)),
      threshold,
      shortest,
    )
    self.folder.mkdir(parents=True, exist_ok=True)
    files.write_json(msgspec.to_builtins(self._index), self.folder / SCENES)

  def segments(self) -> list[Segment]:
    """Returns the segments of all videos, with the texts that exist.

    Texts that belong to no segment are moved to captions.unplaced.json.

    Raises:
      ValueError: the cuts of a video are not in order.
    """
    out = []
    self.too_short.clear()
    for name, episode in self._index.episodes.items():
      if episode.seconds > _LONGEST:
        raise ValueError(
          f'{self.folder / SCENES}: {name} has {episode.seconds:g} s; at most'
          f' {_LONGEST:g} are possible'
        )
      edges = [0.0, *episode.cuts, episode.seconds]
      if edges != sorted(edges):
        raise ValueError(
          f'{self.folder / SCENES}: the cuts of {name} must increase, up to'
          f' its end at {episode.seconds:g} s'
        )
      found = scenes_lib.Cuts(episode.seconds, tuple(episode.cuts)).scenes()
      for number, (start, end) in enumerate(found):
        cropped = crop(name, number, start, end, self._geometry)
        if not cropped:
          self.too_short.append((name, start, end))
        out += cropped
    known = {segment.video for segment in out}
    texts = [t for t in self._texts if t.video in known]
    self._other_texts = [t for t in self._texts if t.video not in known]
    self._unplaced = place(texts, out, self.seconds)
    return out

  def save(self, segments: Sequence[Segment]) -> int:
    """Writes captions.json; returns the number of texts that found no place."""
    unplaced = [
      dict(video=t.video, start=t.start, text=t.text)
      for t in [*self._unplaced, *self._other_texts]
    ]
    if unplaced:
      path = self.folder / UNPLACED
      known = files.read_json(path) if path.exists() else []
      known += [t for t in unplaced if t not in known]
      _write(known, path)
    _write(to_captions(segments), self.folder / CAPTIONS)
    return len(unplaced)

  def _read_texts(self) -> list[Segment]:
    """Returns the texts of captions.json as segments."""
    path = self.folder / CAPTIONS
    if not path.exists():
      return []
    value = files.read_json(path)
    found = schema.convert(value, list[_Captions], str(path))
    out = []
    for episode in found:
      for number, scene in enumerate(episode.scenes):
        for i, text in enumerate(scene.texts):
          start = scene.start + i * self.seconds
          if text.strip():
            out.append(
              Segment(episode.video, number, start, start, text.strip())
            )
    return out


def crop(
  video: str,
  scene: int,
  start: float,
  end: float,
  geometry: geometry_lib.Geometry,
) -> list[Segment]:
  """Returns the complete segments of a scene, as precompute cuts it.

  Args:
    video: Name of the video.
    scene: Number of the scene.
    start: Seconds into the video.
    end: Seconds into the video.
    geometry: Geometry with the length of a segment and the frames per second.

  Returns:
    Segments, [] if the scene is too short for one.
  """
  unit = shots.segment_frames(geometry)
  frames = int((end - start) * geometry.fps + 1e-3)
  count = max(1, frames // unit)
  span = annotations_lib.VideoSpan(
    video, start, end, ('',) * count, (scene,) * count
  )
  found = episodes.crop_to_segments(span, end, geometry, video)
  return [
    Segment(
      video,
      scene,
      round(float(s.start or 0), _DIGITS),
      round(end if s.end is None else s.end, _DIGITS),
    )
    for s in found
  ]


def place(
  texts: Iterable[Segment], segments: Sequence[Segment], seconds: float
) -> list[Segment]:
  """Gives texts to the segments that show at least half of their time.

  Args:
    texts: Texts, with the time at which they start.
    segments: Segments; `text` of those that get one is set.
    seconds: Duration of a segment.

  Returns:
    The texts that found no place.
  """
  by_video: dict[str, list[Segment]] = {}
  for segment in segments:
    by_video.setdefault(segment.video, []).append(segment)
  pairs = []
  texts = list(texts)
  for index, text in enumerate(texts):
    for segment in by_video.get(text.video, ()):
      distance = abs(segment.start - text.start)
      if distance <= seconds / 2:
        pairs.append((distance, index, segment))
  placed: set[int] = set()
  for _, index, segment in sorted(pairs, key=lambda pair: pair[:2]):
    if index not in placed and not segment.text:
      segment.text = texts[index].text
      placed.add(index)
  return [text for i, text in enumerate(texts) if i not in placed]


def to_captions(segments: Sequence[Segment]) -> list[dict[str, Any]]:
  """Returns segments in the form of `data.annotations`."""
  out: dict[str, dict[int, dict[str, Any]]] = {}
  for segment in segments:
    scene = out.setdefault(segment.video, {}).setdefault(
      segment.scene, dict(start=segment.start, end=segment.stop, texts=[])
    )
    scene['texts'].append(segment.text)
  return [
    dict(
      name=annotations_lib.default_name(video),
      video=video,
      scenes=list(scenes.values()),
    )
    for video, scenes in out.items()
  ]


def _write(value: Any, path: pathlib.Path) -> None:
  """Writes JSON with texts as they are."""
  with files.atomic_write(path) as temporary:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    temporary.write_text(text + '\n', encoding='utf-8')


def _size(path: pathlib.Path) -> int:
  return sum(os.path.getsize(p) for p in [path] if p.is_file())
